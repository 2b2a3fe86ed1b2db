"""What was measured of a denoiser's file, and whether rounding explains it.

For scale, ‖o − y‖ / ‖y‖ is 1 for a prediction of nothing, and √2 for that of a model that has nothing to do with the
source. A trained U-Net of 11 million weights, whose convolutions were rounded, has 0.0075 at Q8_0, 0.076 at Q5_0 and
0.18 at Q4_0. The tests' three tiny models (Flux, Z-Image, a U-Net with random weights) have 0.006 to 0.009 at Q8_0,
0.017 to 0.03 at Q6_K, 0.043 to 0.072 at Q5_0, 0.074 to 0.11 at Q4_K, 0.088 to 0.14 at Q4_0, 0.15 to 0.26 at Q3_K and
0.28 to 0.47 at Q2_K; with other random weights 1.0 to 1.5. ``LARGEST`` are far above what rounding has, and at most
what a prediction of nothing costs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from hubquant.errors import EvaluationError
from hubquant.evaluate.pictures.likeness import Likeness
from hubquant.evaluate.pictures.replay import PredictionError
from hubquant.units import measured

LARGEST = ((8.0, 0.25), (6.0, 0.5), (4.0, 1.0))
"""From so many bits per weight on: what the mean error of a file's predictions may be."""


@dataclass(frozen=True)
class Fidelity:
    """A denoiser's file against its source, on ``n_pictures`` pictures.

    ``error`` is the mean of ‖o − y‖ / ‖y‖ over ``n_predictions`` predictions o where the source, on the way to its own
    picture, predicts y; ``standard_error`` is that of the mean over pictures, 0 of one picture; ``by_step`` is the mean
    of each step. ``drift`` is the mean relative error of the final latents where the file draws on its own from the
    same noise, ``psnr`` in dB and ``ssim`` are the means of these pictures; None where it has drawn none.
    """

    error: float
    standard_error: float
    by_step: tuple[float, ...]
    n_pictures: int
    n_predictions: int
    drift: float | None = None
    psnr: float | None = None
    ssim: float | None = None

    @classmethod
    def of(cls, errors: Iterable[PredictionError], likenesses: Sequence[Likeness] = ()) -> Fidelity:
        """``ValueError`` for no errors."""
        pictures, steps = defaultdict[int, list[float]](list), defaultdict[int, list[float]](list)
        for each in errors:
            pictures[each.picture].append(each.error)
            steps[each.step].append(each.error)
        means = [fmean(of_picture) for of_picture in pictures.values()]
        if not means:
            raise ValueError("there is nothing to summarize")
        spread = stdev(means) if len(means) > 1 and all(map(math.isfinite, means)) else 0.0
        alike = {
            name: fmean(getattr(each, name) for each in likenesses) if likenesses else None
            for name in ("drift", "psnr", "ssim")
        }
        return cls(
            error=fmean(means),
            standard_error=spread / math.sqrt(len(means)),
            by_step=tuple(fmean(steps[step]) for step in sorted(steps)),
            n_pictures=len(means),
            n_predictions=sum(map(len, pictures.values())),
            **alike,
        )

    @property
    def distance(self) -> float:
        """``error``."""
        return self.error

    def __str__(self) -> str:
        drawn = "" if self.psnr is None else f", PSNR {self.psnr:.1f} dB, SSIM {self.ssim:.3f}"
        return f"prediction error {measured(self.error, self.standard_error)}{drawn} on {self.n_pictures} pictures"


def check_faithful(name: str, bits: float, found: Fidelity) -> None:
    """Raises ``EvaluationError`` when the file called ``name``, whose tensors have at least so many bits per weight,
    cannot be the source with such rounding: its predictions are not finite, or beyond ``LARGEST``."""
    limit = next((largest for least, largest in LARGEST if bits >= least), math.inf)
    if math.isfinite(found.error) and found.error <= limit:
        return
    what = f"by a relative error of {found.error:.3g}" if math.isfinite(found.error) else "values that are not finite"
    raise EvaluationError(
        f"{name} does not predict what the source model does: {what}",
        why=f"rounding to its types explains no more than {limit:.2g}; its weights or their conversion are wrong"
        if math.isfinite(limit)
        else "its weights or their conversion are wrong",
        hint="check that weights and config are of one model, and add --fresh to make everything again; "
        "if it stays so, report it with the name of the model",
    )

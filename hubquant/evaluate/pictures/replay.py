"""What a denoiser predicts where its source was, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hubquant.evaluate.pictures.arguments import mapped
from hubquant.evaluate.pictures.likeness import relative_error
from hubquant.evaluate.pictures.tape import Call, Tape, as_rows, dtype_of, prediction


@dataclass(frozen=True)
class PredictionError:
    """‖o − y‖ / ‖y‖ of one prediction o in a ``step`` of a ``picture``, where the source predicts y."""

    picture: int
    step: int
    error: float


def replay(denoiser: torch.nn.Module, tape: Tape, picture: int) -> Iterator[PredictionError]:
    """Of each prediction of the source while it drew ``picture``, on the source's own latents: errors do not add up
    along the way, and nothing is drawn at random. Guidance makes two predictions in a step.

    ``denoiser`` may be on another device than the source's was, and of another dtype; but half precision rounds more
    than weights: Flux multiplies the time by 1000 in its own dtype, and a tiny one in float32 is 0.19 from itself in
    bfloat16. So file and source are to be run in the same one. What is not finite counts as it is: NaN.
    """
    for call in tape.calls(picture):
        for found, source in zip(predicted(denoiser, call), as_rows(call.output), strict=True):
            yield PredictionError(picture, call.step, relative_error(found, source))


def predicted(denoiser: torch.nn.Module, call: Call) -> tuple[Tensor, ...]:
    """What ``denoiser`` makes of what the source was given in ``call``, one prediction each."""
    device, dtype = next(denoiser.parameters()).device, dtype_of(denoiser)

    def placed(x: Tensor) -> Tensor:
        # Weights that accelerate keeps elsewhere are on "meta": it moves the input itself.
        to = x.device if device.type == "meta" else device
        return x.to(to, dtype if x.dtype == call.dtype else x.dtype)

    with torch.no_grad():
        return as_rows(prediction(denoiser(*mapped(call.args, placed), **mapped(call.kwargs, placed))))

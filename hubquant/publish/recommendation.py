"""Which of several files is worth its size, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.units import counted

if TYPE_CHECKING:
    from hubquant.evaluate import Divergence, Similarity
    from hubquant.evaluate.pictures import DiffusersCheck, Fidelity
    from hubquant.evaluate.speed import Speed
    from hubquant.llamacpp.runtime import RuntimeCheck
    from hubquant.publish.fed_back import FedBack
    from hubquant.publish.in_library import InLibrary


@dataclass(frozen=True)
class MeasuredFile:
    """``file`` is its path in the repository, the first shard's if it has several; ``size`` in bytes, all shards
    together; ``bpw`` in bits per weight. ``divergence`` is that of the file's weights, ``in_llamacpp`` that of the file
    as llama.cpp runs it; they are None where nothing was measured, and so is ``runtime`` of a file that is not for
    llama.cpp. ``fork`` is the repository of the only llama.cpp that loads the file, None where any does. In the place
    of divergences, ``similarity`` is what was measured of an encoder, and ``fidelity`` of a denoiser. ``with_imatrix``
    tells, where a file was measured with the importance matrix and without it, which of both this one is;
    ``loaded_by`` names the programs that draw with a denoiser's file, and ``in_diffusers`` tells what one of them
    made of it, where it was asked. Of a folder, not a file, ``library`` tells of what has quantized it. ``speed`` is
    what the model takes of the machine that it was measured on, and ``fed_back`` what error feedback did for it.
    """

    file: str
    type: str
    size: int
    bpw: float
    divergence: Divergence | None = None
    runtime: RuntimeCheck | None = None
    fork: str | None = None
    in_llamacpp: Divergence | None = None
    similarity: Similarity | None = None
    fidelity: Fidelity | None = None
    with_imatrix: bool | None = None
    loaded_by: tuple[str, ...] = ()
    in_diffusers: DiffusersCheck | None = None
    library: InLibrary | None = None
    speed: Speed | None = None
    fed_back: FedBack | None = None

    @property
    def is_for_llama_cpp(self) -> bool:
        """Whether llama.cpp itself loads it, and not only a fork, or a library that has quantized it."""
        return self.fork is None and self.library is None

    @property
    def distance(self) -> float | None:
        """From the source: the mean KLD, of an encoder 1 − the mean cosine, of a denoiser the error of its predictions;
        None where nothing was measured."""
        if self.divergence:
            return self.divergence.kld.mean
        found = self.similarity or self.fidelity
        return found.distance if found else None


@dataclass(frozen=True)
class Measure:
    """What files are compared by, in words: for a title, and for an axis."""

    name: str
    axis: str


DIVERGENCES = Measure("divergence", "mean KL divergence from the source (nats, log scale)")
SIMILARITIES = Measure("1 − mean cosine", "1 − mean cosine with the source's embeddings (log scale)")
FIDELITIES = Measure("prediction error", "mean relative error of predictions (log scale)")


def measure_of(files: Iterable[MeasuredFile]) -> Measure:
    """Of files of one model."""
    for file in files:
        if file.similarity or file.fidelity:
            return SIMILARITIES if file.similarity else FIDELITIES
    return DIVERGENCES


# Mean KLD up to which a file is called so. For scale: stock Q8_0, Q6_K, Q4_K_M, Q3_K_M and Q2_K of Llama-3-8B have
# 0.0014, 0.0055, 0.028, 0.084 and 0.33.
QUALITY = (
    (0.002, "hardly measurable losses"),
    (0.01, "very small losses"),
    (0.05, "small losses"),
    (0.15, "noticeable losses"),
    (0.5, "large losses: only when memory is short"),
    (math.inf, "very large losses"),
)
# Of an encoder, 1 - mean cosine or 1 - rank correlation, whichever is larger, up to which a file is called so.
QUALITY_OF_EMBEDDINGS = (
    (0.001, QUALITY[0][1]),
    (0.005, QUALITY[1][1]),
    (0.02, QUALITY[2][1]),
    (0.05, QUALITY[3][1]),
    (0.15, QUALITY[4][1]),
    (math.inf, QUALITY[5][1]),
)
# Of a denoiser, the mean relative error of its predictions up to which a file is called so. For scale: a trained U-Net
# has 0.0075 at Q8_0, 0.076 at Q5_0 and 0.18 at Q4_0; tiny models with random weights up to 0.009 at Q8_0, 0.03 at Q6_K,
# 0.07 at Q5_0, 0.11 at Q4_K, 0.26 at Q3_K and 0.47 at Q2_K. Whoever looks at pictures was not asked.
QUALITY_OF_PREDICTIONS = (
    (0.01, QUALITY[0][1]),
    (0.03, QUALITY[1][1]),
    (0.1, QUALITY[2][1]),
    (0.2, QUALITY[3][1]),
    (0.4, QUALITY[4][1]),
    (math.inf, QUALITY[5][1]),
)
RECOMMENDED_LOSS = 0.02
RECOMMENDED_ERROR = 0.1
LEAST_TEXTS = 32
LEAST_PICTURES = 4
RECOMMENDED_KLD = 0.05
RECOMMENDED_SAME_TOP = 0.9
LEAST_TOKENS = 4000
# A mean is taken to lie within so many of its standard errors.
ERRORS = 2.0


@dataclass(frozen=True)
class _Judged:
    """What a file's measurement leaves possible: the least and the largest distance from the source, what it is called
    by the largest, and whether it may be recommended by that."""

    file: MeasuredFile
    least: float
    largest: float
    sentence: str
    is_good: bool

    @classmethod
    def of(cls, file: MeasuredFile) -> _Judged | None:
        """None for a file of which too little was measured."""
        if file.similarity:
            return cls._of_embeddings(file, file.similarity)
        if file.fidelity:
            return cls._of_predictions(file, file.fidelity)
        if not file.divergence or file.divergence.n_tokens < LEAST_TOKENS:
            return None
        measured = file.divergence
        kld, room = measured.kld.mean, ERRORS * measured.kld.error
        largest, least_same_top = kld + room, measured.same_top - ERRORS * measured.same_top_error
        is_good = largest <= RECOMMENDED_KLD and least_same_top >= RECOMMENDED_SAME_TOP
        return cls(file, kld - room, largest, _called(largest, QUALITY), is_good)

    @classmethod
    def _of_embeddings(cls, file: MeasuredFile, measured: Similarity) -> _Judged | None:
        if measured.n_texts < LEAST_TEXTS:
            return None
        distance, room = measured.distance, ERRORS * measured.cosine_error
        loss = max(distance + room, 1 - measured.spearman + ERRORS * measured.spearman_error)
        called = _called(loss, QUALITY_OF_EMBEDDINGS)
        return cls(file, distance - room, distance + room, called, loss <= RECOMMENDED_LOSS)

    @classmethod
    def _of_predictions(cls, file: MeasuredFile, measured: Fidelity) -> _Judged | None:
        if measured.n_pictures < LEAST_PICTURES:
            return None
        room = ERRORS * measured.standard_error
        largest, called = measured.error + room, _called(measured.error + room, QUALITY_OF_PREDICTIONS)
        return cls(file, measured.error - room, largest, called, largest <= RECOMMENDED_ERROR)

    def nearest_within(self, others: Sequence[_Judged]) -> _Judged | None:
        """Of the files that are no larger and certainly nearer to the source, the nearest."""
        nearer = [o for o in others if o.file.size <= self.file.size and o.largest < self.least]
        return min(nearer, key=lambda other: other.largest, default=None)


def _called(largest: float, names: Sequence[tuple[float, str]]) -> str:
    return next(text for limit, text in names if largest <= limit)


def recommend(files: Sequence[MeasuredFile]) -> dict[str, str]:
    """A sentence for each file name, from its measurements and those of the others.

    A file is judged by the worst that its standard errors leave possible, and not at all on fewer than
    ``LEAST_TOKENS`` tokens, ``LEAST_TEXTS`` texts or ``LEAST_PICTURES`` pictures. One that is farther from the source
    than one that is no larger is not worth its size. Of the others, the smallest is recommended that keeps to
    ``RECOMMENDED_KLD`` and ``RECOMMENDED_SAME_TOP``, of an encoder to ``RECOMMENDED_LOSS`` in mean cosine and in rank
    correlation, of a denoiser to ``RECOMMENDED_ERROR``. A file that only a fork of llama.cpp loads is neither
    recommended nor compared with.
    """
    enough = [one for one in map(_Judged.of, files) if one]
    common = [one for one in enough if one.file.fork is None]
    good = [one for one in common if one.is_good and not one.nearest_within(common)]
    best = min(good, key=lambda one: (one.file.size, one.largest), default=None)
    sentences = {file.file: _not_judged(file) for file in files}
    for one in enough:
        sentence = one.sentence
        if one is best:
            sentence = f"recommended: {sentence}"
        elif other := one.nearest_within(common):
            sentence = f"{sentence}; {other.file.type} is not larger and nearer to the source"
        sentences[one.file.file] = sentence
    return sentences


def _not_judged(file: MeasuredFile) -> str:
    if file.similarity:
        return f"not judged: {file.similarity.n_texts:,} texts are too few"
    if file.fidelity:
        return f"not judged: {counted(file.fidelity.n_pictures, 'picture is', 'pictures are')} too few"
    if file.divergence is None:
        return "not measured"
    return f"not judged: {file.divergence.n_tokens:,} tokens are too few"

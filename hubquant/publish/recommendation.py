"""Which of several files is worth its size, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubquant.evaluate import Divergence
    from hubquant.llamacpp.runtime import RuntimeCheck


@dataclass(frozen=True)
class MeasuredFile:
    """``file`` is its path in the repository, the first shard's if it has several; ``size`` in bytes, all shards
    together; ``bpw`` in bits per weight. ``divergence`` is that of the file's weights, ``in_llamacpp`` that of the file
    as llama.cpp runs it; they and ``runtime`` are None where nothing was measured or checked. ``fork`` is the
    repository of the only llama.cpp that loads the file, None where any does.
    """

    file: str
    type: str
    size: int
    bpw: float
    divergence: Divergence | None = None
    runtime: RuntimeCheck | None = None
    fork: str | None = None
    in_llamacpp: Divergence | None = None


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
RECOMMENDED_KLD = 0.05
RECOMMENDED_SAME_TOP = 0.9
LEAST_TOKENS = 4000
# A mean is taken to lie within so many of its standard errors.
ERRORS = 2.0


@dataclass(frozen=True)
class _Judged:
    """What a file's measurement leaves possible: the least and the largest mean KLD, the least share of same tokens."""

    file: MeasuredFile
    least_kld: float
    largest_kld: float
    least_same_top: float

    @classmethod
    def of(cls, file: MeasuredFile, measured: Divergence) -> _Judged:
        kld, room = measured.kld.mean, ERRORS * measured.kld.error
        return cls(file, kld - room, kld + room, measured.same_top - ERRORS * measured.same_top_error)

    @property
    def is_good(self) -> bool:
        return self.largest_kld <= RECOMMENDED_KLD and self.least_same_top >= RECOMMENDED_SAME_TOP

    def nearest_within(self, others: Sequence[_Judged]) -> _Judged | None:
        """Of the files that are no larger and certainly nearer to the source, the nearest."""
        nearer = [o for o in others if o.file.size <= self.file.size and o.largest_kld < self.least_kld]
        return min(nearer, key=lambda other: other.largest_kld, default=None)


def recommend(files: Sequence[MeasuredFile]) -> dict[str, str]:
    """A sentence for each file name, from its measurements and those of the others.

    A file is judged by the worst that its standard errors leave possible, and not at all on fewer than
    ``LEAST_TOKENS`` tokens. One that is farther from the source than one that is no larger is not worth its size. Of
    the others, the smallest is recommended that keeps to ``RECOMMENDED_KLD`` and ``RECOMMENDED_SAME_TOP``. A file that
    only a fork of llama.cpp loads is neither recommended nor compared with.
    """
    enough = [_Judged.of(f, f.divergence) for f in files if f.divergence and f.divergence.n_tokens >= LEAST_TOKENS]
    common = [one for one in enough if one.file.fork is None]
    good = [one for one in common if one.is_good and not one.nearest_within(common)]
    best = min(good, key=lambda one: (one.file.size, one.largest_kld), default=None)
    sentences = {file.file: _not_judged(file) for file in files}
    for one in enough:
        sentence = next(text for limit, text in QUALITY if one.largest_kld <= limit)
        if one is best:
            sentence = f"recommended: {sentence}"
        elif other := one.nearest_within(common):
            sentence = f"{sentence}; {other.file.type} is not larger and nearer to the source"
        sentences[one.file.file] = sentence
    return sentences


def _not_judged(file: MeasuredFile) -> str:
    if file.divergence is None:
        return "not measured"
    return f"not judged: {file.divergence.n_tokens:,} tokens are too few"

"""Types in plain words, for somebody who has never chosen one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubquant.commands.survey import SurveyedType

COMMON = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "IQ3_M", "Q2_K", "IQ2_M")
"""What people look for; the others are for who knows them."""
_WORDS = (  # by bits per weight, of a whole file
    (15.0, "not rounded; for further work rather than for use"),
    (7.5, "can hardly be told from the original"),
    (6.0, "practically as good as the original"),
    (5.0, "very close to the original"),
    (4.1, "good quality at a moderate size: the usual choice"),
    (3.2, "noticeably rounded: for when memory is short"),
    (2.3, "strongly rounded: large models bear it, small ones hardly"),
    (0.0, "for experiments: results get clearly worse"),
)


def in_words(type: SurveyedType) -> str:
    """What was measured of this model's file, or else what files of so many bits are like."""
    if type.advice is not None:
        return type.advice
    return next(text for bits, text in _WORDS if (type.bpw or 0.0) >= bits)


def offered(types: Sequence[SurveyedType], *, every: bool, chosen: Sequence[str] = ()) -> list[SurveyedType]:
    """What is to choose from, the largest first: the common ones and the ``chosen``, or ``every`` one."""
    possible = [each for each in types if each.size is not None]
    return [each for each in possible if every or each.name in COMMON or each.name in chosen]


def best_within(types: Sequence[SurveyedType], n_bytes: float) -> SurveyedType | None:
    """The file with the most bits that has at most so many bytes; stock llama.cpp loads it."""
    small = [each for each in offered(types, every=False) if each.fork is None and (each.size or 0) <= n_bytes]
    return max(small, key=lambda each: each.size or 0, default=None)

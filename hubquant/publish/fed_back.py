"""What is told of files whose weights were rounded with error feedback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubquant.publish.recommendation import MeasuredFile

_NAMED = 3


@dataclass(frozen=True)
class FedBack:
    """Of ``n_matrices`` those in ``nearest`` stayed as they are with each weight rounded by itself, which was better on
    the text that was held out. ``share`` is the geometric mean of what is left of the wrong power of their outputs."""

    n_matrices: int
    nearest: tuple[str, ...]
    share: float


def feedback_checks(files: Sequence[MeasuredFile]) -> list[str]:
    """What came of it on held-out text, in sentences for a terminal and for the card."""
    found = [(file.type, file.fed_back) for file in files if file.fed_back]
    if not found:
        return []
    shares = ", ".join(f"{each.share:.2f} ({type})" for type, each in found)
    sentences = [
        "Weights were rounded with error feedback. On text that was held out from the calibration, the outputs of "
        f"layers keep this share of the error that rounding each weight by itself leaves them: {shares}."
    ]
    for type, each in found:
        if each.nearest:
            some = ", ".join(each.nearest[:_NAMED]) + (" and others" if len(each.nearest) > _NAMED else "")
            sentences.append(
                f"{type}: {len(each.nearest)} of {each.n_matrices} matrices stayed without, which was better: {some}."
            )
    return sentences

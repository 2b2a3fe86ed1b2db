"""What is told of files whose weights were rounded with error feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hubquant.printable import plain

if TYPE_CHECKING:
    from hubquant.publish.recommendation import MeasuredFile

_NAMED = 3


@dataclass(frozen=True)
class FedBack:
    """Of ``n_matrices`` those in ``nearest`` stayed as they are with each weight rounded by itself, which was better on
    the text that was held out. ``share`` is the geometric mean of what is left of the wrong power of their outputs.
    ``by_text`` has what is left of the whole file's mean KLD, empty where the file without was not measured."""

    n_matrices: int
    nearest: tuple[str, ...]
    share: float
    by_text: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_kept(self) -> bool:
        return is_better(self.by_text)


def is_better(by_text: Mapping[str, float]) -> bool:
    """Whether a file with such shares of the mean KLD stays: on no text may it be worse than that without."""
    return all(share < 1 for share in by_text.values())


def feedback_checks(files: Sequence[MeasuredFile]) -> list[str]:
    """What came of it on held-out text, in sentences for a terminal and for the card."""
    found = [(file.type, file.fed_back) for file in files if file.fed_back]
    kept = [(type, each) for type, each in found if each.is_kept]
    sentences = []
    if kept:
        shares = ", ".join(f"{each.share:.2f} ({type})" for type, each in kept)
        sentences.append(
            "Weights were rounded with error feedback. On text that was held out from the calibration, the outputs of "
            f"layers keep this share of the error that rounding each weight by itself leaves them: {shares}."
        )
    for type, each in kept:
        if each.by_text:
            left = ", ".join(f"{share:.2f} ({plain(text)})" for text, share in each.by_text.items())
            sentences.append(f"{type} as a whole keeps this share of the mean KLD of the file without: {left}.")
        if each.nearest:
            some = ", ".join(each.nearest[:_NAMED]) + (" and others" if len(each.nearest) > _NAMED else "")
            sentences.append(
                f"{type}: {len(each.nearest)} of {each.n_matrices} matrices stayed without, which was better: {some}."
            )
    for type, each in found:
        if not each.is_kept:
            worse = ", ".join(f"{share:.2f} ({plain(text)})" for text, share in each.by_text.items() if share >= 1)
            sentences.append(
                f"{type} stayed without error feedback, with which the mean KLD is this share of that without: {worse}."
            )
    return sentences

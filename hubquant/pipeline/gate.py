"""Whether a whole file is the better for error feedback: measured with it and without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.engine.task import Context, Task

if TYPE_CHECKING:
    from hubquant.evaluate import Divergence
    from hubquant.pipeline.evaluate import FileDivergence

GATE_CHUNKS = 8
"""Of the calibration text that was held out, which files are measured on besides the evaluation text."""
HELD_OUT = "held-out calibration text"
EVALUATION = "evaluation text"
COMPARED = (
    "files are made with error feedback and without it, and of each type the one with it stays only if it diverges "
    f"less on the {EVALUATION} and on {HELD_OUT}"
)


@dataclass(frozen=True)
class BothWays:
    """Of one text, called ``on``, how far the file with error feedback is from the source, and the one without."""

    on: str
    fed_back: FileDivergence
    plain: FileDivergence

    def __iter__(self) -> Iterator[Task[Any]]:
        return iter((self.fed_back, self.plain))

    def shares(self, context: Context) -> dict[str, float]:
        """What feedback leaves of the mean divergence: of the whole text, and of its parts where these have names."""
        fed_back, plain = context.read(self.fed_back), context.read(self.plain)
        named = {name: (fed_back.texts[name], plain.texts[name]) for name in plain.texts if name in fed_back.texts}
        return {name: _share(*pair) for name, pair in {self.on: (fed_back, plain), **named}.items()}


def _share(fed_back: Divergence, plain: Divergence) -> float:
    return fed_back.kld.mean / plain.kld.mean if plain.kld.mean else 1.0

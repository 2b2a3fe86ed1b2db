"""The steps of a refinement as tasks: matrices of more and more text, a file with each, and how far that is from its
source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.backends.backend import ImatrixFacts, Importance
from hubquant.backends.gguf.backend import CheckedGGUF
from hubquant.backends.gguf.task import QuantizedFile
from hubquant.devices import Device
from hubquant.engine.task import Task
from hubquant.errors import ImatrixError
from hubquant.observe import collected_names
from hubquant.pipeline.baseline import BaselineTask
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.costs import REPORT_BYTES, evaluating_cost
from hubquant.pipeline.evaluate import Evaluation
from hubquant.pipeline.given_imatrix import used_names
from hubquant.pipeline.grown_imatrix import GrownImatrix
from hubquant.pipeline.held import Offload
from hubquant.pipeline.importance import CollectedImatrix
from hubquant.pipeline.streamed import LastBlock, StreamedEvaluation
from hubquant.recipe.schema import Imatrix

if TYPE_CHECKING:
    from hubquant.calibration import Chunks


@dataclass(frozen=True)
class Rung:
    """A file that was made with a matrix of the first ``chunks`` of a mixture, or without any."""

    mix: str
    chunks: int
    tokens: int
    imatrix: GrownImatrix | None
    evaluation: Evaluation | StreamedEvaluation


@dataclass(frozen=True)
class Ladder:
    """``bare`` is the file without a matrix, None where its type needs one; ``mixes`` have equally many rungs."""

    bare: Rung | None
    mixes: Mapping[str, tuple[Rung, ...]]

    @property
    def height(self) -> int:
        return len(next(iter(self.mixes.values())))

    def __iter__(self) -> Iterator[Rung]:
        """In the order in which they are climbed."""
        yield from [self.bare] if self.bare else []
        for level in range(self.height):
            yield from (rungs[level] for rungs in self.mixes.values())


@dataclass(frozen=True)
class Builder:
    """How the rungs of one model are made: ``checked`` has the settings of one file, what is compared with ``baseline``
    is streamed where that is, and ``tuned`` tokens of calibration text run at a time."""

    checked: CheckedGGUF
    settings: Imatrix
    offload: Offload
    baseline: BaselineTask | LastBlock
    device: Device
    tuned: int

    def ladder(self, pools: Mapping[str, Chunks], sizes: Sequence[int]) -> Ladder:
        """``sizes`` in chunks, growing."""
        return Ladder(self._bare(), {name: tuple(self._rungs(name, pool, sizes)) for name, pool in pools.items()})

    def _bare(self) -> Rung | None:
        try:
            (file,) = self.checked.tasks(None)
        except ImatrixError:
            return None
        return Rung("", 0, 0, None, self._evaluation(file, "no matrix"))

    def _rungs(self, name: str, pool: Chunks, sizes: Sequence[int]) -> Iterator[Rung]:
        component = self.checked.component
        before: GrownImatrix | None = None
        done = 0
        for size in sizes:
            part, whole = pool.part(range(done, size)), pool.part(range(size))
            added = CollectedImatrix(
                component, part, self.settings, self.offload, is_part=True, device=self.device, tuned=self.tuned
            )
            before = GrownImatrix(added, before, whole.fingerprint)
            covered = used_names(
                collected_names(component.conversion.taps, self.settings.process_output), self.settings
            )
            facts = ImatrixFacts(IMATRIX, pool.datasets[0], len(covered), size, whole.fingerprint)
            used = Importance(before, facts, covered, self.settings.include_weights, self.settings.exclude_weights)
            (file,) = self.checked.tasks(used)
            evaluation = self._evaluation(file, f"{name}, {whole.n_tokens:,} tokens" if name else "")
            yield Rung(name, size, whole.n_tokens, before, evaluation)
            done = size

    def _evaluation(self, file: QuantizedFile, detail: str) -> Evaluation | StreamedEvaluation:
        label = f"{file.plan.label} ({detail})" if detail else file.plan.label
        if isinstance(self.baseline, LastBlock):
            return StreamedEvaluation(file, self.baseline, label)
        chunks = self.baseline.chunks
        cost = evaluating_cost(file.component, chunks, REPORT_BYTES * chunks.n_tokens, self.device)
        return Evaluation(file, self.baseline, label, cost, self.device)


def tasks_of(ladder: Ladder) -> list[Task[Any]]:
    return [rung.evaluation for rung in ladder]

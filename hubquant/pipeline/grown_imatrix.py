"""An importance matrix that grows: what it has seen is not collected again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.engine.task import Context, Cost, Task
from hubquant.imatrix import CALIBRATION, merge, save
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.imatrix_task import ImatrixTask
from hubquant.pipeline.importance import CollectedImatrix
from hubquant.version import __version__

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, eq=False)
class GrownImatrix(ImatrixTask):
    """The sums of ``before``, if any, and of ``added``, which is a part of a collection. ``tokens`` is the fingerprint
    of all chunks that they have seen."""

    added: CollectedImatrix
    before: GrownImatrix | None
    tokens: str

    @property
    def step(self) -> str:
        return ""

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"added": self.added, **({"before": self.before} if self.before else {})}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"tokens": self.tokens, "hubquant": __version__}

    @property
    def cost(self) -> Cost:
        size = self.added.cost.disk_bytes
        return Cost(ram_bytes=4 * size, disk_bytes=size)

    def make(self, folder: Path, context: Context) -> None:
        parts = [self.before, self.added] if self.before else [self.added]
        found = merge(context.read(part) for part in parts)
        save(replace(found, provenance={**found.provenance, CALIBRATION: self.tokens}), folder / IMATRIX)

"""Check what was written before anything leaves: every tensor against its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.task import QuantizedFile
from hubquant.convert.conversion import stream
from hubquant.engine.task import Context, Cost, Pass, Task
from hubquant.engine.values import keep_value, read_value
from hubquant.errors import VerificationError
from hubquant.pipeline.costs import verifying_cost
from hubquant.pipeline.results import RESULT
from hubquant.sources.component import Component
from hubquant.sources.pulled import Pulled
from hubquant.version import __version__

if TYPE_CHECKING:
    from hubquant.evaluate import TensorCheck
    from hubquant.evaluate.bands import Rounding


@dataclass(frozen=True, eq=False)
class Verification(Task["TensorCheck"]):
    """The tensor of ``file`` that is nearest to the limit of its type."""

    kind = "verification"
    tells_of_inputs = True

    file: QuantizedFile

    @property
    def step(self) -> str:
        return "verify"

    @property
    def detail(self) -> str:
        return self.file.plan.label

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.file.component.pulled, "file": self.file}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"hubquant": __version__}

    @property
    def cost(self) -> Cost:
        return verifying_cost(self.file.component.shapes)

    @property
    def shares(self) -> VerifyingPass:
        component = self.file.component
        return VerifyingPass(component.pulled, component.name, self.file.rounding, component)

    def make(self, folder: Path, context: Context) -> None:
        self.shares.make([(self, folder)], context)

    def read(self, folder: Path) -> TensorCheck:
        from hubquant.evaluate import TensorCheck

        return read_value(folder / RESULT, TensorCheck)


@dataclass(frozen=True)
class VerifyingPass(Pass):
    """Reads every weight of a ``part`` of the source once and compares it with all files."""

    pulled: Pulled
    part: str
    mode: Rounding
    component: Component = field(compare=False)

    def make(self, tasks: Sequence[tuple[Verification, Path]], context: Context) -> None:
        """Raises ``VerificationError``; the files are then removed, so that the next run makes them again."""
        from hubquant.evaluate import verify_files

        tensors = stream(self.component.conversion, context.read(self.pulled).checkpoint)
        paths = [context.read(task.file) for task, _ in tasks]
        with context.progress.bar("verify", len(self.component.shapes), "tensors") as advance:
            try:
                checks = verify_files(paths, tensors, mode=self.mode, advance=advance)
            except VerificationError:
                for task, _ in tasks:
                    context.store.forget(task.file)
                raise
        for (_, folder), check in zip(tasks, checks, strict=True):
            keep_value(folder / RESULT, check.worst[0])

"""Folders that libraries quantize, beside the GGUF files: made, loaded again, and measured like them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.folder import CALIBRATION_CHUNKS, FolderPlan, QuantizedFolder, folder_plan
from hubquant.backends.gguf.task import QuantizedFile
from hubquant.backends.libraries.registry import named
from hubquant.backends.probe import Reloaded, check_reloaded
from hubquant.backends.restore import restored
from hubquant.devices import Device, chosen_device
from hubquant.engine.limits import cores
from hubquant.engine.task import Context, Cost, Shared, Task
from hubquant.errors import NotSupportedYet, VerificationError
from hubquant.evaluate.speed import Speed
from hubquant.llamacpp.process import installed_version, is_installed
from hubquant.pipeline.baseline import BaselineTask
from hubquant.pipeline.costs import REPORT_BYTES, evaluating_cost, running_cost
from hubquant.pipeline.drawing.measured import DrawingEvaluation
from hubquant.pipeline.evaluate import Evaluation
from hubquant.pipeline.results import Measurement
from hubquant.recipe.schema import Recipe
from hubquant.sources.component import Component
from hubquant.version import __version__

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.evaluate import Baseline
    from hubquant.evaluate.runner import Runner


SECONDS = 3600
"""That llama.cpp may compute to be timed."""


@dataclass(frozen=True)
class Timed:
    """``speed`` is None where llama.cpp did not run the file."""

    speed: Speed | None


@dataclass(frozen=True, eq=False)
class ReloadedFolder(Measurement[Reloaded]):
    """Whether a fresh process that loads ``folder`` computes what was saved, and what it takes."""

    kind = "reload"
    version = 2
    tells_of_inputs = True

    folder: QuantizedFolder

    @property
    def step(self) -> str:
        return "verify"

    @property
    def detail(self) -> str:
        return self.folder.plan.label

    @property
    def type(self) -> type[Reloaded]:
        return Reloaded

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"folder": self.folder}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"hubquant": __version__}

    @property
    def cost(self) -> Cost:
        return running_cost(self.folder.component.n_parameters, 0, device=self.folder.device)

    def measure(self, folder: Path, context: Context) -> Reloaded:  # noqa: ARG002
        """Raises ``VerificationError``; the folder is then removed, so that the next run makes it again."""
        place = context.store.path(self.folder)
        with context.progress.doing(f"loading {self.detail} again"):
            try:
                return check_reloaded(
                    context.read(self.folder),
                    self.folder.backend.name,
                    place,
                    chosen_device(self.folder.device),
                    self.tape(context),
                )
            except VerificationError:
                context.store.forget(self.folder)
                raise

    def tape(self, context: Context) -> Path | None:  # noqa: ARG002
        """What a denoiser was called with."""
        return None


@dataclass(frozen=True)
class LoadedFolder(Shared):
    """The model of a folder on ``device``, computing in float32 as those of GGUF files do, where it can."""

    folder: QuantizedFolder
    device: Device

    @contextmanager
    def open(self, context: Context) -> Iterator[Any]:
        import torch

        from hubquant.backends.libraries.noise import quietly

        with quietly():
            path, backend = context.read(self.folder), self.folder.backend
            dtype = {} if self.folder.type in backend.only_as_saved else {"dtype": torch.float32}
            yield restored(path, backend.name, chosen_device(self.device), **dtype)


@dataclass(frozen=True, eq=False)
class FolderEvaluation(Evaluation):
    """KL divergence and perplexity of a folder, on the text of the baseline."""

    @property
    def shares(self) -> LoadedFolder:  # type: ignore[override]
        assert isinstance(self.file, QuantizedFolder)
        return LoadedFolder(self.file, self.device)

    def text_of(self, baseline: Baseline, context: Context) -> Baseline:  # noqa: ARG002
        return baseline

    @contextmanager
    def running_file(self, baseline: Baseline, context: Context) -> Iterator[Runner]:  # noqa: ARG002
        from hubquant.models.language_model import LibraryModel

        yield LibraryModel(context.held)


@dataclass(frozen=True)
class FolderTasks:
    """Of one folder; ``evaluation`` is None where nothing is."""

    folder: QuantizedFolder
    reloaded: ReloadedFolder
    evaluation: FolderEvaluation | DrawingEvaluation | None

    @property
    def plan(self) -> FolderPlan:
        return self.folder.plan


def folder_tasks(
    recipe: Recipe,
    component: Component,
    calibration: Chunks | None,
    baseline: Task[Any] | None,
    texts: tuple[str, ...],
    device: Device,
) -> tuple[FolderTasks, ...]:
    """Of the types that are not GGUF's. ``baseline`` is what they are measured by. Raises a ``UserError`` for what a
    library cannot do with the model."""
    if baseline is not None and not isinstance(baseline, BaselineTask) and recipe.quantize.in_libraries:
        raise NotSupportedYet(
            "measuring folders of a model that does not fit in memory",
            why="a library has all of it in memory",
            hint="add --set evaluate.way=stored, or choose types of GGUF",
        )

    def of(label: str) -> FolderTasks:
        plan = folder_plan(component, label, device)
        backend, type = named(label)
        inputs = calibration if backend.types[type].calibrated else None
        few = inputs.part(range(min(len(inputs), CALIBRATION_CHUNKS))) if inputs else None
        folder = QuantizedFolder(component, plan, recipe.quantize.skip_modules, few, device)
        evaluation = None
        if isinstance(baseline, BaselineTask):
            cost = evaluating_cost(component, baseline.chunks, REPORT_BYTES * baseline.chunks.n_tokens, device)
            evaluation = FolderEvaluation(folder, baseline, label, cost, device, texts)
        return FolderTasks(folder, ReloadedFolder(folder), evaluation)

    return tuple(map(of, recipe.quantize.in_libraries))


def calibrates_folders(labels: Sequence[str]) -> bool:
    """Whether any of these types of libraries is rounded by a text."""
    return any(backend.types[type].calibrated for backend, type in map(named, labels))


@dataclass(frozen=True, eq=False)
class SpeedInLlamaCpp(Measurement[Timed]):
    """What a GGUF file takes of this machine, where it stands in one table with folders."""

    kind = "speed"
    tells_of_inputs = True

    file: QuantizedFile

    @property
    def step(self) -> str:
        return "evaluate"

    @property
    def detail(self) -> str:
        return f"{self.file.plan.label} in llama.cpp"

    @property
    def type(self) -> type[Timed]:
        return Timed

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"file": self.file}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"llamacpp": installed_version(), "threads": cores()}

    @property
    def cost(self) -> Cost:
        return Cost(ram_bytes=self.file.plan.size)

    def measure(self, folder: Path, context: Context) -> Timed:  # noqa: ARG002
        from hubquant.llamacpp.speed import speed_of

        tokenizer = self.file.component.source.tokenizer()
        token = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
        with context.progress.doing(f"timing {self.detail}"):
            return Timed(speed_of(context.read(self.file), token, cores(), SECONDS))


def speed_tasks(recipe: Recipe, files: Sequence[QuantizedFile], component: Component) -> tuple[SpeedInLlamaCpp, ...]:
    """Of the files that llama.cpp runs, where folders are asked for as well."""
    if not recipe.quantize.in_libraries or recipe.evaluate.skip or component.embeds or not is_installed():
        return ()
    return tuple(SpeedInLlamaCpp(file) for file in files if file.plan.fork is None)

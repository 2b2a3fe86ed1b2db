"""Folders of diffusers with a denoiser that a library has quantized: made, loaded again, and measured like files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hubquant.backends.folder import FolderPlan, QuantizedFolder, folder_plan
from hubquant.backends.gguf.task import QuantizedFile
from hubquant.backends.libraries.library import Framework
from hubquant.backends.probe import keep_predictions
from hubquant.devices import Device, chosen_device
from hubquant.engine.task import Context, Task
from hubquant.errors import NotSupportedYet
from hubquant.pipeline.drawing.measured import DrawingEvaluation
from hubquant.pipeline.drawing.source import DrawnBySource
from hubquant.pipeline.folders import FolderTasks, ReloadedFolder
from hubquant.recipe.schema import Recipe
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from hubquant.evaluate.pictures import Call


@dataclass(frozen=True, eq=False)
class QuantizedDenoiser(QuantizedFolder):
    """The denoiser alone, as diffusers saves it, its floats in the dtype that the source drew ``baseline`` in: in
    another one it would differ by more than its rounding."""

    framework: ClassVar[Framework] = "diffusers"

    baseline: DrawnBySource = field(kw_only=True)

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.baseline.model.pulled, "baseline": self.baseline}

    def loaded(self, context: Context) -> Any:
        from hubquant.models.diffusion import load_part

        folder, dtype = context.read(self.baseline.model.pulled).folder, self._first_call(context).dtype
        model = load_part(folder, self.component.name, str(dtype).removeprefix("torch."))
        model.register_to_config(_name_or_path="")  # where it lies on this machine
        return model.to(chosen_device(self.device))

    def add_files(self, target: Path, context: Context) -> None:
        """None: the other parts of the pipeline are the source's."""

    def keep_answers(self, model: Any, path: Path, context: Context) -> None:
        keep_predictions(model, self._first_call(context), path)

    def _first_call(self, context: Context) -> Call:
        return next(context.read(self.baseline).tape.calls(0))


@dataclass(frozen=True, eq=False)
class ReloadedDenoiser(ReloadedFolder):
    """As :class:`ReloadedFolder`, by what it predicts in the first call of the source."""

    folder: QuantizedDenoiser

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"folder": self.folder, "baseline": self.folder.baseline}

    def tape(self, context: Context) -> Path:
        return context.read(self.folder.baseline).tape.folder


@dataclass(frozen=True, eq=False)
class FolderDrawing(DrawingEvaluation):
    """Of a folder."""

    def size(self, context: Context) -> int:
        return self._folder.facts(context).size

    @contextmanager
    def pipeline_of(self, file: QuantizedFile | QuantizedFolder, context: Context) -> Iterator[Any]:
        from hubquant.backends.restore import opening_denoiser
        from hubquant.models.diffusion import load_pipeline

        model, path = self.baseline.model, context.read(file)
        device, backend = chosen_device(model.device), self._folder.backend.name

        def load(dtype: str) -> Any:
            return opening_denoiser(path, backend, device, dtype)()

        instead: Mapping[str, Callable[[str], Any]] = {file.component.name: load}
        with context.store.scratch(model.pulled) as disk:
            with context.progress.doing(f"loading {path.name}"):
                source = context.read(model.pulled)
                pipe = load_pipeline(source.folder, model.device, disk=disk, instead=instead)
            yield pipe

    @property
    def _folder(self) -> QuantizedFolder:
        assert isinstance(self.file, QuantizedFolder)
        return self.file


def denoiser_plans(recipe: Recipe, component: Component, device: Device) -> list[FolderPlan]:
    """Of the types that are not GGUF's. Raises a ``UserError`` for what a library cannot do with the denoiser."""
    plans = [folder_plan(component, label, device) for label in recipe.quantize.in_libraries]
    if plans and recipe.evaluate.skip:
        raise NotSupportedYet(
            f"{plans[0].label} of a denoiser without evaluation",
            why="what is loaded again is compared by what it predicts while the source draws",
            hint="leave evaluate.skip out; --set evaluate.pictures.count=1 is the least that is drawn",
        )
    return plans


def denoiser_folders(
    plans: Sequence[FolderPlan], recipe: Recipe, baseline: DrawnBySource | None, device: Device
) -> tuple[FolderTasks, ...]:
    """``baseline`` is None where there are no ``plans`` only."""

    def of(plan: FolderPlan, baseline: DrawnBySource) -> FolderTasks:
        skip = recipe.quantize.skip_modules
        folder = QuantizedDenoiser(baseline.component, plan, skip, device=device, baseline=baseline)
        return FolderTasks(folder, ReloadedDenoiser(folder), FolderDrawing(folder, None, baseline, plan.label))

    return tuple(of(plan, baseline) for plan in plans if baseline is not None)

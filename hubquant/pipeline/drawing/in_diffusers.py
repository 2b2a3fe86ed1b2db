"""Whether diffusers itself draws with a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubquant.backends.gguf.task import QuantizedFile
from hubquant.convert.diffusion.consumers import DIFFUSERS
from hubquant.devices import chosen_device
from hubquant.engine.task import Context, Cost, Task
from hubquant.evaluate.pictures import DiffusersCheck
from hubquant.models.diffusion.index import installed_version
from hubquant.pipeline.costs import LIBRARIES_BYTES, on_device
from hubquant.pipeline.drawing.measured import DrawingEvaluation
from hubquant.pipeline.drawing.page import programs_of
from hubquant.pipeline.held import other_device, rate_on
from hubquant.pipeline.results import Measurement
from hubquant.sources.denoiser import DenoiserSource
from hubquant.version import __version__

COPIES = 2  # of a file's bytes in memory: as they are read, and cut into the tensors of diffusers


@dataclass(frozen=True, eq=False)
class UsedByDiffusers(Measurement[DiffusersCheck]):
    """Of the file that an ``evaluation`` found to be the better one, on the source's first call."""

    kind = "in-diffusers"

    evaluation: DrawingEvaluation

    @classmethod
    def of(cls, evaluation: DrawingEvaluation) -> UsedByDiffusers | None:
        """None where it does not load the file."""
        file = evaluation.file
        return cls(evaluation) if isinstance(file, QuantizedFile) and DIFFUSERS.name in programs_of(file) else None

    @property
    def step(self) -> str:
        return "evaluate"

    @property
    def detail(self) -> str:
        return self.evaluation.name

    @property
    def label(self) -> str:
        return f"{self.detail} check in diffusers"

    @property
    def type(self) -> type[DiffusersCheck]:
        return DiffusersCheck

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"evaluation": self.evaluation, **self.evaluation.inputs}

    @property
    def made_from(self) -> Mapping[str, Any]:
        device = other_device(self.evaluation.baseline.model.device)
        return {"diffusers": installed_version(), "hubquant": __version__, **device}

    @property
    def cost(self) -> Cost:
        """Of one prediction; in diffusers weights stay as they are in the file."""
        file = self.evaluation.file
        return Cost(
            ram_bytes=LIBRARIES_BYTES + COPIES * file.plan.size,
            device_bytes=file.plan.size if on_device(self.evaluation.baseline.model.device) else 0,
            work=float(file.component.n_parameters),
        )

    @property
    def rate(self) -> str:
        return rate_on("draw", self.evaluation.baseline.model.device)

    def measure(self, folder: Path, context: Context) -> DiffusersCheck:  # noqa: ARG002
        from hubquant.evaluate.pictures import check_in_diffusers

        evaluation, model = self.evaluation, self.evaluation.baseline.model
        found, source = context.read(evaluation), context.read(model.pulled)
        assert isinstance(source, DenoiserSource)
        path = context.read(evaluation.winner(found))
        with context.progress.doing(f"loading {path.name} in diffusers"):
            return check_in_diffusers(
                path,
                source.denoiser_class,
                source.folder,
                source.component,
                next(context.read(evaluation.baseline).tape.calls(0)),
                evaluation.first_prediction(context.store.path(evaluation), found),
                chosen_device(model.device),
            )

"""An importance matrix of what flows into a pipeline's weights while it draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.disk import write_at_once
from hubquant.engine.task import Context, Cost, Task, fingerprint
from hubquant.imatrix import CALIBRATION, save
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.costs import matrix_bytes
from hubquant.pipeline.drawing.held import LoadedPipeline, described, drawing_cost, made_from_pictures
from hubquant.pipeline.drawing.source import numbered
from hubquant.pipeline.held import other_device, rate_on
from hubquant.pipeline.imatrix_task import ImatrixTask
from hubquant.pipeline.results import SNAPSHOT
from hubquant.recipe.pictures import Pictures
from hubquant.sources.component import Component
from hubquant.units import counted
from hubquant.version import __version__

if TYPE_CHECKING:
    import torch

    from hubquant.models.diffusion import Drawn

KEPT_PICTURES = "pictures"


@dataclass(frozen=True, eq=False)
class DrawnImatrix(ImatrixTask):
    """Sums over the pictures of ``settings``, of every denoiser and text encoder of the ``component``'s pipeline.

    ``provenance`` goes into the matrix. With ``keeps_pictures`` they are kept beside it.
    """

    component: Component
    settings: Pictures
    prompts: tuple[str, ...]
    model: LoadedPipeline
    convolutions: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)
    keeps_pictures: bool = False

    @property
    def detail(self) -> str:
        return described(self.settings)

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.model.pulled}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {
            **made_from_pictures(self.settings, self.prompts),
            "convolutions": self.convolutions,
            "provenance": dict(self.provenance),
            **({"pictures": True} if self.keeps_pictures else {}),
            **other_device(self.model.device),
            "hubquant": __version__,
        }

    @property
    def fingerprint(self) -> str:
        """Of the prompts, the noise and how they are drawn: in the place of a text's token ids."""
        return fingerprint(made_from_pictures(self.settings, self.prompts))

    @property
    def cost(self) -> Cost:
        shapes = self.component.shapes
        disk = matrix_bytes(shapes[name] for name in self.component.conversion.taps)
        return replace(drawing_cost(self.model, self.component, self.settings), disk_bytes=disk)

    @property
    def rate(self) -> str:
        return rate_on("draw", self.model.device)

    @property
    def shares(self) -> LoadedPipeline:
        return self.model

    def make(self, folder: Path, context: Context) -> None:
        from hubquant.models.diffusion import draw
        from hubquant.observe import SnapshotPlace
        from hubquant.observe.drawing import collect_pictures
        from hubquant.observe.pictures import PictureSums

        batches = list(in_batches(self.settings, self.prompts))

        def draw_one(number: int) -> torch.Tensor:
            _, prompts, seeds = batches[number]
            made = draw(context.held, prompts, seeds, self.settings)
            if self.keeps_pictures:
                keep_pictures(folder / KEPT_PICTURES, batches[number][0], made)
            return made.pictures[:, 0]

        keeping = SnapshotPlace(folder / SNAPSHOT, self.key)
        sums = PictureSums(context.held, convolutions=self.convolutions)
        drawn = iter(batches)
        with context.progress.bar("imatrix", self.settings.count, "pictures") as advance:
            collect_pictures(
                sums,
                draw_one,
                range(len(batches)),
                keeping=keeping,
                advance=lambda n: advance(sum(len(next(drawn)[1]) for _ in range(n))),
            )
        if sums.skipped:
            context.progress.note(
                f"{counted(len(sums.skipped), 'picture')} gave activations that are not finite, and left out: "
                + ", ".join(map(str, sums.skipped[:10]))
            )
        source = self.component.source
        facts = {"model": source.full_name, "model_identity": source.identity["model"], CALIBRATION: self.fingerprint}
        matrix = sums.matrix({**facts, **self.provenance})
        datasets = tuple(prompts.display_name for prompts in self.settings.prompts)
        save(replace(matrix, datasets=datasets), folder / IMATRIX)
        keeping.path.unlink(missing_ok=True)


def in_batches(settings: Pictures, prompts: Sequence[str]) -> list[tuple[int, list[str], list[int]]]:
    """(number of the first, prompts, seeds) of what is drawn at once."""
    pictures = list(numbered(settings, tuple(prompts)))
    groups = [pictures[at : at + settings.batch] for at in range(0, len(pictures), settings.batch)]
    return [(group[0][0], [prompt for _, prompt, _ in group], [seed for *_, seed in group]) for group in groups]


def keep_pictures(folder: Path, first: int, drawn: Drawn) -> None:
    """As PNG files, of a video its middle frame, the first of which is number ``first``."""
    from hubquant.publish.grid import png

    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(drawn.pictures, first):
        write_at_once(folder / f"picture-{number:04}.png", png(picture))

"""An importance matrix of what flows into a pipeline's weights while it draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.disk import write_at_once
from hubquant.engine.task import Context, Cost, fingerprint
from hubquant.imatrix import CALIBRATION, ImportanceMatrix, save
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.costs import matrix_bytes
from hubquant.pipeline.drawing.held import DrawingTask, drawing_cost, made_from_pictures
from hubquant.pipeline.drawing.source import numbered
from hubquant.pipeline.imatrix_task import ImatrixTask, left_out
from hubquant.pipeline.results import SNAPSHOT
from hubquant.recipe.pictures import Pictures

if TYPE_CHECKING:
    import torch

    from hubquant.models.diffusion import Drawn

KEPT_PICTURES = "pictures"


@dataclass(frozen=True, eq=False)
class DrawnImatrix(DrawingTask[ImportanceMatrix], ImatrixTask):
    """Sums over what every denoiser and text encoder of the pipeline sees meanwhile. With ``keeps_pictures`` these are
    kept beside them."""

    convolutions: bool = False
    keeps_pictures: bool = False

    @property
    def made_from(self) -> Mapping[str, Any]:
        kept = {"pictures": True} if self.keeps_pictures else {}
        return {**super().made_from, "convolutions": self.convolutions, **kept}

    @property
    def fingerprint(self) -> str:
        """Of the prompts, the noise and how they are drawn: in the place of a text's token ids."""
        return fingerprint(made_from_pictures(self.settings, self.prompts))

    @property
    def cost(self) -> Cost:
        shapes = self.component.shapes
        disk = matrix_bytes(shapes[name] for name in self.component.conversion.taps)
        return replace(drawing_cost(self.model, self.component, self.settings), disk_bytes=disk)

    def make(self, folder: Path, context: Context) -> None:
        from hubquant.models.diffusion import draw
        from hubquant.observe import SnapshotPlace
        from hubquant.observe.drawing import collect_pictures
        from hubquant.observe.pictures import PictureSums

        batches = in_batches(self.settings, self.prompts)

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
            context.progress.note(left_out(sums.skipped, "picture"))
        source = self.component.source
        facts = {"model": source.full_name, "model_identity": source.identity["model"], CALIBRATION: self.fingerprint}
        matrix = sums.matrix(facts)
        datasets = tuple(prompts.display_name for prompts in self.settings.prompts)
        save(replace(matrix, datasets=datasets), folder / IMATRIX)
        keeping.path.unlink(missing_ok=True)


def in_batches(settings: Pictures, prompts: tuple[str, ...]) -> list[tuple[int, list[str], list[int]]]:
    """(number of the first, prompts, seeds) of what is drawn at once."""
    pictures = list(numbered(settings, prompts))
    groups = [pictures[at : at + settings.batch] for at in range(0, len(pictures), settings.batch)]
    return [(group[0][0], [prompt for _, prompt, _ in group], [seed for *_, seed in group]) for group in groups]


def keep_pictures(folder: Path, first: int, drawn: Drawn) -> None:
    """As PNG files, of a video its middle frame, the first of which is number ``first``."""
    from hubquant.publish.grid import png

    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(drawn.pictures, first):
        write_at_once(folder / f"picture-{number:04}.png", png(picture))

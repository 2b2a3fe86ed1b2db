"""What the source draws, and each prediction on the way: what its files are measured against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.disk import write_at_once
from hubquant.engine.task import Context, Cost
from hubquant.pipeline.drawing.held import USUAL_STEPS, DrawingTask, drawing_cost
from hubquant.recipe.pictures import Pictures

if TYPE_CHECKING:
    from hubquant.evaluate.pictures import Tape
    from hubquant.models.diffusion import Drawn

LATENTS, PICTURE = "latents", "picture"
BYTES_OF_STEP = 4 << 20  # of what a tape keeps of each step of each picture, for an estimate


@dataclass(frozen=True)
class SourceDrawings:
    """In a folder: the ``tape`` of all pictures, and each picture with its latents."""

    folder: Path

    @property
    def tape(self) -> Tape:
        from hubquant.evaluate.pictures import Tape

        return Tape(self.folder / "tape")

    def drawn(self, number: int) -> Drawn:
        """The latents [1, ...] and pictures [1, frames, 3, height, width] of picture ``number``."""
        from safetensors.torch import load_file

        from hubquant.models.diffusion import Drawn

        found = load_file(self.path(number))
        return Drawn(found[LATENTS], found[PICTURE])

    def keep(self, number: int, drawn: Drawn) -> None:
        from safetensors.torch import save

        content = save({LATENTS: drawn.latents.contiguous(), PICTURE: drawn.pictures.contiguous()})
        write_at_once(self.path(number), content)

    def path(self, number: int) -> Path:
        return self.folder / f"picture-{number:04}.safetensors"


@dataclass(frozen=True, eq=False)
class DrawnBySource(DrawingTask[SourceDrawings]):
    """A killed process goes on with the next picture."""

    kind = "drawings"

    @property
    def step(self) -> str:
        return "draw"

    @property
    def label(self) -> str:
        return "drawings of the source"

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {**super().made_from, "component": self.component.name}

    @property
    def cost(self) -> Cost:
        cost = drawing_cost(self.model, self.component, self.settings)
        steps = self.settings.count * (self.settings.steps or USUAL_STEPS)
        return Cost(cost.ram_bytes, cost.device_bytes, disk_bytes=steps * BYTES_OF_STEP, work=cost.work)

    def make(self, folder: Path, context: Context) -> None:
        from hubquant.models.diffusion import denoisers, draw

        found, pipe = SourceDrawings(folder), context.held
        denoiser = denoisers(pipe)[self.component.name]
        with context.progress.bar(self.label, self.settings.count, "pictures") as advance:
            for number, prompt, seed in numbered(self.settings, self.prompts):
                if number not in found.tape:
                    with found.tape.recording(denoiser, number):
                        found.keep(number, draw(pipe, [prompt], [seed], self.settings))
                advance(1)

    def read(self, folder: Path) -> SourceDrawings:
        return SourceDrawings(folder)


def numbered(settings: Pictures, prompts: tuple[str, ...]) -> Iterator[tuple[int, str, int]]:
    """(number, prompt, seed) of each picture."""
    yield from zip(range(settings.count), prompts, settings.seeds, strict=True)

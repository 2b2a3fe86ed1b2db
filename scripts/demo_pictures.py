"""Pictures for the demo of diffusion: one coloured shape on a coloured ground, drawn here, and the prompt that says so.

``seen`` tells from a picture what stands on it, so that a model can be held to its prompt.

    python -m scripts.demo_pictures

writes the two lists of prompts that come with hubquant.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, cycle, islice, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

EDGE = 64  # pixels
COLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.14),
    "orange": (0.98, 0.55, 0.05),
    "yellow": (0.98, 0.88, 0.15),
    "green": (0.10, 0.60, 0.22),
    "blue": (0.12, 0.28, 0.82),
    "purple": (0.52, 0.14, 0.62),
    "black": (0.06, 0.06, 0.07),
    "white": (0.96, 0.96, 0.95),
}
RADII = {"small": 0.14, "large": 0.27}  # of the edge
PLACES = {"left": 0.31, "centre": 0.50, "right": 0.69}  # of the edge, from the left
MOVED, SCALED, SHADED = 0.03, 0.08, 0.03  # how far a drawing may be from these, and from its colours
PROMPTS = Path(__file__).parents[1] / "hubquant" / "data" / "prompts"
HEADERS = {
    "demo-prompts": "# Prompts to calibrate the bundled diffusion model with: each of its words is about as frequent.",
    "demo-prompts-test": "# Prompts to measure the bundled diffusion model with, which it was not trained on.",
}
UNLIKE = 0.25  # how far a pixel's colour is from the ground's at least where it belongs to the shape


@dataclass(frozen=True)
class Scene:
    """What a prompt says. ``size`` and ``place`` are None where it leaves them open."""

    shape: str
    colour: str
    ground: str
    size: str | None = None
    place: str | None = None

    @classmethod
    def parse(cls, prompt: str) -> Scene:
        """The inverse of ``prompt``. ``ValueError`` or ``KeyError`` for anything that is not written like it."""
        what, _, place = prompt.partition(", ")
        thing, ground = what.split(" on ")
        *size, colour, shape = thing.split()[1:]
        found = cls(shape, colour, ground, size[0] if size else None, place or None)
        if found.prompt != prompt or shape not in SHAPES or {colour, ground} - COLOURS.keys():
            raise ValueError(f"{prompt!r} is no prompt of the demo")
        return found

    @property
    def prompt(self) -> str:
        """Such as "a large red circle on blue, left"."""
        thing = " ".join(filter(None, (self.size, self.colour, self.shape)))
        return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing} on {self.ground}" + (
            f", {self.place}" if self.place else ""
        )

    def agrees(self, prompted: Scene) -> dict[str, bool]:
        """Whether each thing that ``prompted`` says is so here."""
        said = {name: value for name, value in vars(prompted).items() if value is not None}
        return {name: vars(self)[name] == value for name, value in said.items()}


def _spikes(n: int, inner: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Of a star with ``n`` tips at radius 1, the first at the top, and notches at radius ``inner``."""
    half = math.pi / n
    along = torch.tensor([inner * math.cos(half) - 1, inner * math.sin(half)])
    across = torch.stack((along[1], -along[0])) / along.norm()

    def distance(x: Tensor, y: Tensor) -> Tensor:
        angle = (torch.atan2(x, -y) + half).remainder(2 * half) - half
        radius = torch.hypot(x, y)
        return (radius * angle.cos() - 1) * across[0] + radius * angle.sin().abs() * across[1]

    return distance


def _bar(x: Tensor, y: Tensor, width: float, height: float) -> Tensor:
    return torch.maximum(x.abs() - width, y.abs() - height)


SHAPES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: torch.hypot(x, y) - 1,
    "ring": lambda x, y: (torch.hypot(x, y) - 0.78).abs() - 0.22,
    "square": lambda x, y: _bar(x, y, 0.86, 0.86),
    "triangle": _spikes(3, 0.5),
    "cross": lambda x, y: torch.minimum(_bar(x, y, 0.3, 1), _bar(x, y, 1, 0.3)),
    "star": _spikes(5, 0.42),
}
"""The distance from the edge of a shape of radius 1 around the origin, negative within; y grows downwards."""


def scenes() -> Iterator[Scene]:
    """All of them, with size and place."""
    for shape, colour, ground, size, place in product(SHAPES, COLOURS, COLOURS, RADII, PLACES):
        if colour != ground:
            yield Scene(shape, colour, ground, size, place)


def draw(scenes: Sequence[Scene], generator: torch.Generator) -> Tensor:
    """[n, 3, EDGE, EDGE] with values in 0..1. Scenes say size and place; each drawing is a little different."""

    def about(middle: Sequence[Any], most: float) -> Tensor:
        values = torch.tensor(middle, dtype=torch.float32)
        return values + most * (2 * torch.rand(values.shape, generator=generator) - 1)

    colours, grounds = (
        about([COLOURS[getattr(scene, name)] for scene in scenes], SHADED).clamp(0, 1)[:, :, None, None]
        for name in ("colour", "ground")
    )
    across = about([PLACES[str(scene.place)] for scene in scenes], MOVED)
    down = about([0.5] * len(scenes), MOVED)
    radii = torch.tensor([RADII[str(scene.size)] for scene in scenes]) * about([1.0] * len(scenes), SCALED)
    found = [mask(scene.shape, *place) for scene, *place in zip(scenes, across, down, radii, strict=True)]
    masks = torch.stack(found)[:, None]
    return masks * colours + (1 - masks) * grounds


def mask(shape: str, across: Tensor, down: Tensor, radius: Tensor) -> Tensor:
    """[EDGE, EDGE]: how much of each pixel the shape covers; centre and radius are parts of the edge."""
    pixels = (torch.arange(EDGE) + 0.5) / EDGE
    distance = SHAPES[shape]((pixels[None] - across) / radius, (pixels[:, None] - down) / radius)
    return (0.5 - distance * radius * EDGE).clamp(0, 1)


def seen(picture: Tensor) -> Scene | None:
    """What stands on a picture [3, EDGE, EDGE] with values in 0..1; None where nothing does."""
    ground = torch.cat((picture[:, :3].flatten(1), picture[:, -3:].flatten(1)), 1).median(1).values
    unlike = (picture - ground[:, None, None]).norm(dim=0) > UNLIKE
    if unlike.sum() < 8:
        return None
    rows, columns = unlike.any(1).nonzero().flatten(), unlike.any(0).nonzero().flatten()
    width, middle = float(columns[-1] - columns[0] + 1) / EDGE, float(columns[0] + columns[-1] + 1) / 2 / EDGE
    return Scene(
        max(SHAPES, key=lambda shape: _overlap(unlike, shape, rows, columns)),
        _nearest(picture[:, unlike].median(1).values, COLOURS),
        _nearest(ground, COLOURS),
        _nearest(torch.tensor([width / 2]), {name: (radius,) for name, radius in RADII.items()}),
        _nearest(torch.tensor([middle]), {name: (place,) for name, place in PLACES.items()}),
    )


def _nearest(value: Tensor, named: Mapping[str, tuple[float, ...]]) -> str:
    return min(named, key=lambda name: float((value - torch.tensor(named[name])).norm()))


def _overlap(found: Tensor, shape: str, rows: Tensor, columns: Tensor) -> float:
    """Intersection over union of ``found`` with the shape that fills the same columns and begins in the same row."""
    middle = torch.tensor(0.5)
    unit = mask(shape, middle, middle, torch.tensor(0.25)) > 0.5
    wide, high = unit.any(0).nonzero().flatten(), unit.any(1).nonzero().flatten()
    radius = 0.25 * (columns[-1] - columns[0] + 1) / (wide[-1] - wide[0] + 1)
    top = (high[0] / EDGE - 0.5) / 0.25
    across, down = (columns[0] + columns[-1] + 1) / 2 / EDGE, rows[0] / EDGE - top * radius
    drawn = mask(shape, across, down, radius) > 0.5
    return float((found & drawn).sum() / (found | drawn).sum())


def balanced(n: int, seed: int) -> list[Scene]:
    """``n`` scenes in which no shape, colour, ground, size or place is more frequent than another by more than one."""
    shuffled = random.Random(seed).sample
    while True:
        columns = [shuffled([*islice(cycle(values), n)], n) for values in (SHAPES, COLOURS, COLOURS, RADII, PLACES)]
        found = [Scene(*row) for row in zip(*columns, strict=True)]
        if all(scene.colour != scene.ground for scene in found):
            return found


def main() -> None:
    calibration = balanced(24, seed=0)
    seed = next(seed for seed in count(1) if not set(balanced(8, seed)) & set(calibration))
    for name, chosen in (("demo-prompts", calibration), ("demo-prompts-test", balanced(8, seed))):
        lines = [HEADERS[name], *(scene.prompt for scene in chosen)]
        (PROMPTS / f"{name}.txt").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()

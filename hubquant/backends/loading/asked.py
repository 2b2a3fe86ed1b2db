"""What a caller of ``hubquant.load`` asks for, and whether it can be done, before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.backends.compatibility import check, check_framework, check_package, choose, package, refusal, verdict
from hubquant.backends.detection.detect import Detected
from hubquant.backends.libraries.layers import linear_layers
from hubquant.backends.libraries.library import Framework, LibraryBackend, Moment
from hubquant.backends.libraries.registry import library, named
from hubquant.backends.loading.located import Located
from hubquant.backends.loading.offloading import check_room
from hubquant.backends.rules import READ_ONLY, Cell, Offload, Place
from hubquant.checkpoint.headers import listed
from hubquant.engine.progress import Progress
from hubquant.errors import NotSupportedYet, UserError
from hubquant.recipe.backends import GGUF, LIBRARIES
from hubquant.units import counted

if TYPE_CHECKING:
    import torch

_FLOATS = "floats"
_SLACK = 1.25  # scales, and what stays floats
_HALF = 16  # bits of a weight as most models are stored
_ON_GPUS = ("torchao:int4wo",)
"""What is quantized on the device that computes with it only."""


@dataclass(frozen=True)
class Asked:
    """``quantize`` is an entry of a recipe such as quanto:qint8; ``skip`` are parts of the names of modules that stay
    floats; of a pipeline ``components`` are quantized, None for its denoisers. ``dtype`` is that of what is not
    quantized, None for the one that it is stored in."""

    quantize: str | None
    when: Moment
    offload: Offload
    device: Place
    skip: tuple[str, ...] = ()
    components: tuple[str, ...] | None = None
    dtype: torch.dtype | None = None

    @property
    def loads_on(self) -> str:
        """The device that weights are loaded on, before they are offloaded."""
        return self.device if self.offload == "none" or self.quantize in _ON_GPUS else "cpu"

    def named(self) -> tuple[LibraryBackend, str]:
        return named(str(self.quantize))


def check_asked(asked: Asked, framework: Framework) -> None:
    """That a model of ``framework`` in floats can be quantized so. Raises ``UserError``: see :func:`check`."""
    backend, _, type = str(asked.quantize).partition(":")
    check(backend, type, framework, asked.when, asked.offload, asked.device)
    if backend == GGUF:
        raise NotSupportedYet(
            "a model as GGUF in memory",
            why="diffusers reads GGUF files and makes none",
            hint=f"hubquant quantize MODEL -t {type} writes one, which is loaded by its name",
        )
    if asked.named()[0].types[type].calibrated:
        raise NotSupportedYet(
            f"{asked.quantize} while a model is loaded",
            why="its rounding is calibrated with text",
            hint=f"hubquant run MODEL --types {asked.quantize} makes a folder, which is loaded by its name",
        )


def check_stored(asked: Asked, framework: Framework, found: Detected) -> None:
    """That a model that is not to be quantized can be loaded so as it was ``found``. Raises ``NotSupportedYet`` for
    what its library cannot do, ``UserError`` for what is of no use, and for a package that is missing."""
    backend, type = found.backend or _FLOATS, found.type or ""
    moment: Moment = "load"
    if backend in LIBRARIES and not library(backend).quantizes_on_load:
        moment = "after"
    made = _FLOATS if backend == READ_ONLY else backend  # of which the rules say that nothing here makes it
    answer = verdict(made, type, framework, moment, asked.offload, asked.device)
    if answer.state == "refused":
        offloads = [each for each in answer.instead if each.startswith("offload")]
        others = [each for each in answer.instead if ":" in each]
        anew = f"load the model that it was made of with quantize {' or '.join(others[:2])}" if others else None
        cell = Cell(made, type, framework, moment, asked.offload, asked.device)
        raise refusal(cell, answer, choose(offloads) or anew)
    check_framework(backend)
    if backend in (GGUF, READ_ONLY, *LIBRARIES) and (backend != GGUF or framework == "diffusers"):
        check_package(package(backend))


def check_floats(name: str, found: Detected) -> None:
    """Raises ``UserError`` for what is quantized already, and so is not quantized again."""
    if found.quantized:
        what = f"{found.component} of {name}" if found.component else name
        raise UserError(
            f"{what} is quantized already",
            why=f"it is {found}, and a second rounding would add its errors to those of the first",
            hint="leave quantize out, or name the model that it was made of",
        )


def check_disk(model: Located, asked: Asked) -> None:
    """Raises ``UserError`` where the disk has no room for what is to be offloaded to it."""
    share = 1.0
    if asked.quantize is not None:
        backend, type = asked.named()
        share = min(share, _SLACK * backend.types[type].bits / _HALF)
    check_room(asked.offload, int(share * model.n_bytes))


def undivided(asked: Asked, skeleton: Any, progress: Progress) -> tuple[str, ...]:
    """The layers of a model without weights that the type cannot divide: a library that quantizes while it loads has
    to be told of them."""
    backend, type = asked.named()
    left = tuple(name for name, layer in linear_layers(skeleton, asked.skip) if not backend.fits(type, layer))
    if left:
        some = counted(len(left), "layer stays floats", "layers stay floats")
        progress.note(f"{some}, as {asked.quantize} cannot divide their width: {listed(left)}")
    return left

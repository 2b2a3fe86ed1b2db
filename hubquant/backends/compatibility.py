"""Asks the rules before anything is loaded: does it work, why not, and what does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from hubquant.backends.libraries.library import Framework, Moment, Package
from hubquant.backends.libraries.registry import library, named
from hubquant.backends.rules import READ_ONLY, Cell, Offload, Place, State, rule
from hubquant.errors import GGUFError, NotSupportedYet, UserError
from hubquant.recipe.backends import GGUF
from hubquant.version import version_of

_UNTRIED = {"cuda": "untried on a GPU", "mps": "untried on a GPU of Apple's"}
_READERS = {
    GGUF: Package("gguf", "0.19", "diffusion"),
    READ_ONLY: Package("compressed-tensors", "0.20", "compressed-tensors", "compressed_tensors"),
}
"""What the frameworks need to read what no library here makes."""
_OF_FRAMEWORKS = {
    **dict.fromkeys(("gptq", "awq"), "gptqmodel"),
    **{name: name for name in ("hqq", "aqlm", "eetq", "vptq")},
    "auto-round": "auto-round",
    "quark": "amd-quark",
}
"""What transformers reads other models with, and does not always name. They do not all install beside the rest."""
_NAMED = 2  # alternatives in one message


@dataclass(frozen=True)
class Verdict:
    """``instead`` is what to type, most useful first. ``measured``: it was seen on such a device, else ``why`` says
    that it was not."""

    state: State
    why: str
    instead: tuple[str, ...]
    measured: bool
    pointless: bool = False


def verdict(backend: str, type: str, framework: Framework, moment: Moment, offload: Offload, device: Place) -> Verdict:
    """What the rules say of names that exist."""
    cell = Cell(backend, type, framework, moment, offload, device)
    found = rule(cell)
    measured = device == "cpu"
    why = found.why
    if not measured and found.state != "refused":
        why = "; ".join(filter(None, (why, _UNTRIED[device])))
    instead = tuple(each for each in found.instead if rule(_changed(cell, each)).state != "refused")
    return Verdict(found.state, why, instead, measured, found.pointless)


def check(backend: str, type: str, framework: Framework, moment: Moment, offload: Offload, device: Place) -> Verdict:
    """The verdict of what works, perhaps slowly, with what is installed.

    Raises ``NotSupportedYet`` for what the library cannot do, and ``UserError`` for names that do not exist, for what
    would be of no use, and for packages that are missing or do not fit each other.
    """
    found = verdict(backend, type, framework, moment, offload, device)
    if found.state == "refused":
        raise refusal(Cell(backend, type, framework, moment, offload, device), found, choose(found.instead))
    if backend == GGUF:
        from hubquant.mix.file_types import file_type

        file_type(type)
    else:
        named(f"{backend}:{type}")
    check_package(package(backend))
    return found


def choose(instead: Sequence[str]) -> str | None:
    """The hint that names alternatives; None where there are none."""
    return f"choose {', or '.join(instead[:_NAMED])}" if instead else None


def refusal(cell: Cell, found: Verdict, hint: str | None) -> UserError:
    """Of a ``cell`` that was ``found`` to be refused."""
    if found.pointless:
        return UserError(f"{cell.offload} offload has nowhere to go", why=found.why, hint=hint)
    return NotSupportedYet(rule(cell).named(cell), why=found.why, hint=hint)


def package(backend: str) -> Package:
    """What has to be installed for it. Raises ``RecipeError`` for a name that is none."""
    return _READERS.get(backend) or library(backend).package


def check_framework(backend: str) -> None:
    """Raises ``UserError`` where transformers needs a package to read what ``backend`` made, and it is missing."""
    if (name := _OF_FRAMEWORKS.get(backend)) and version_of(name) is None:
        raise UserError(
            f"a model of {backend} needs {name}",
            why="transformers reads it with that package, which is not installed",
            hint=f"pip install {name} in an environment of its own, or load the model that it was made of",
        )


def check_package(package: Package) -> None:
    """Raises ``UserError`` where it is missing or too old, or wants another torch."""
    package.check()
    check_torch(package.name, metadata.requires(package.name) or (), metadata.version("torch"))


def check_torch(name: str, requirements: Iterable[str], torch: str) -> None:
    """Raises ``UserError`` where a package with these ``requirements`` does not go with a version of torch."""
    from packaging.requirements import Requirement

    for wanted in map(Requirement, requirements):
        if wanted.name != "torch" or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        # A build such as 2.13.0+cpu is as good as the release.
        if not wanted.specifier.contains(torch.partition("+")[0], prereleases=True):
            raise UserError(
                f"{name} does not go with torch {torch}",
                why=f"it needs torch{wanted.specifier}",
                hint=f"pip install 'torch{wanted.specifier}'",
            )


def check_gguf(path: Path) -> None:
    """Raises ``NotSupportedYet`` for a GGUF file of more than a denoiser, of which diffusers loads none."""
    from hubquant.convert.diffusion.recognise import parts
    from hubquant.gguf_file import GGUFFile

    found = parts({name: tensor.shape for name, tensor in GGUFFile.open(path).tensors.items()})
    if not found.denoiser:
        raise GGUFError(
            f"{path} has no denoiser", why="diffusers loads UNets and transformers from GGUF files", hint="name another"
        )
    others = [what for what, names in (("text encoders", found.text_encoders), ("a VAE", found.vae)) if names]
    if others:
        raise NotSupportedYet(
            f"{path.name}, a GGUF file of everything",
            why=f"it has {' and '.join(others)} beside the denoiser, and diffusers loads a denoiser alone",
            hint=f"hubquant quantize {path} -t Q4_K_M writes one of the denoiser",
        )


def _changed(cell: Cell, change: str) -> Cell:
    field, space, value = change.partition(" ")
    if space:
        return replace(cell, **{"moment" if field == "when" else field: value})  # type: ignore[arg-type]
    backend, _, type = change.partition(":")
    return replace(cell, backend=backend, type=type)

"""What quantizes models on a machine: every backend with its package, its types, and what works with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from itertools import groupby
from typing import Any, get_args

from hubquant.backends.compatibility import check_package, package, verdict
from hubquant.backends.library import DataType, Framework, Moment
from hubquant.backends.registry import library
from hubquant.backends.rules import OFFLOADS, Place, saving
from hubquant.devices import Device, chosen_device
from hubquant.errors import UserError
from hubquant.recipe.backends import GGUF, LIBRARIES

FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)
MOMENTS: tuple[Moment, ...] = get_args(Moment)


def backends(device: Place) -> list[dict[str, Any]]:
    """``problem`` and ``command`` are None where a backend is ready to be used. ``rows`` has the types that behave
    alike together, each framework and moment on its own: ``offloads`` to ``state``, ``why`` and ``instead``."""
    return [_backend(name, device) for name in (GGUF, *LIBRARIES)]


def place(device: Device) -> Place:
    """``device``, for "auto" that of this machine, which a build of torch for the CPU alone tells without being
    imported."""
    if device != "auto":
        return device
    if metadata.version("torch").endswith("+cpu"):
        return "cpu"
    chosen = chosen_device("auto")
    return "cuda" if chosen == "cuda" else "mps" if chosen == "mps" else "cpu"


def types(backend: str) -> Mapping[str, DataType]:
    """By name; GGUF's file types with the bits of most of their tensors."""
    if backend != GGUF:
        return library(backend).types
    from hubquant.mix.file_types import FTYPES
    from hubquant.quants.formats import lookup

    return {
        name: DataType(name, lookup(file.default).bits_per_weight, lookup(file.default).block_size)
        for name, file in FTYPES.items()
    }


def rows(backend: str, device: Place) -> Iterator[dict[str, Any]]:
    """The cells of a backend, with the types that behave alike in one row."""
    for framework in FRAMEWORKS:
        for moment in MOMENTS:
            alike: dict[str, list[str]] = {}
            cells: dict[str, dict[str, Any]] = {}
            for type in types(backend):
                found = {each: verdict(backend, type, framework, moment, each, device) for each in OFFLOADS}
                alike.setdefault(str(found), []).append(type)
                cells[str(found)] = {
                    offload: {name: getattr(each, name) for name in ("state", "why", "instead", "measured")}
                    for offload, each in found.items()
                }
            kept = saving(backend, framework, moment, device)
            for key, names in alike.items():
                yield {
                    "types": names,
                    "framework": framework,
                    "moment": moment,
                    "saved_by": kept.by,
                    "offloads": cells[key],
                }


def _backend(name: str, device: Place) -> dict[str, Any]:
    needed = package(name)
    problem = command = None
    try:
        check_package(needed)
    except UserError as error:
        problem, command = str(error), error.hint
    found = list(rows(name, device))
    return {
        "backend": name,
        "package": needed.name,
        "version": needed.installed,
        "oldest": needed.oldest,
        "problem": problem,
        "command": command,
        "device": device,
        "usable": problem is None and any(_works(row["offloads"]) for row in found),
        "types": [
            {"name": each.name, "bits": each.bits, "group": each.group, "calibrated": each.calibrated}
            for each in types(name).values()
        ],
        "rows": found,
    }


def _works(offloads: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(each["state"] != "refused" for each in offloads.values())


def by_bits(types: Iterable[Mapping[str, Any]]) -> list[tuple[float, list[str]]]:
    """Names of types, the fewest bits first."""
    ordered = sorted(types, key=lambda each: each["bits"])
    return [(bits, [each["name"] for each in some]) for bits, some in groupby(ordered, lambda each: each["bits"])]

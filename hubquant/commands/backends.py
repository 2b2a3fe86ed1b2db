"""What quantizes models on a machine: every backend with its package, its types, and what works with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from hubquant.backends.compatibility import Verdict, check_package, package, verdict
from hubquant.backends.libraries.library import DataType, Framework, Moment
from hubquant.backends.libraries.registry import library
from hubquant.backends.rules import OFFLOADS, Offload, Place, saving
from hubquant.devices import Device, chosen_device
from hubquant.errors import UserError
from hubquant.recipe.backends import GGUF, LIBRARIES
from hubquant.version import version_of

FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)
MOMENTS: tuple[Moment, ...] = get_args(Moment)
NAMES = (GGUF, *LIBRARIES)


def backends(device: Device = "auto") -> dict[str, Any]:
    """``problem`` and ``command`` of a backend are None where it is ready to be used. Its ``rows`` have together what
    behaves alike: ``types``, ``where`` (a framework and a moment each), and of every offload the ``state``, ``why``,
    ``instead`` and ``measured``."""
    where = place(device)
    return {
        "device": where,
        "packages": {name: version_of(name) for name in ("torch", *FRAMEWORKS)},
        "backends": [_backend(name, where) for name in NAMES],
    }


def place(device: Device) -> Place:
    """``device``, for "auto" that of this machine, which a build of torch for the CPU alone tells without being
    imported."""
    if device != "auto":
        return device
    if str(version_of("torch")).endswith("+cpu"):
        return "cpu"
    chosen = chosen_device("auto")
    return "cuda" if chosen == "cuda" else "mps" if chosen == "mps" else "cpu"


def types(backend: str) -> Mapping[str, DataType]:
    """By name; GGUF's file types with the bits of most of their tensors."""
    if backend != GGUF:
        return library(backend).types
    from hubquant.mix.file_types import FTYPES
    from hubquant.quants.formats import lookup

    defaults = {name: lookup(file.default) for name, file in FTYPES.items()}
    return {name: DataType(name, each.bits_per_weight, each.block_size) for name, each in defaults.items()}


def rows(backend: str, device: Place) -> list[dict[str, Any]]:
    """All cells of a backend, with those together that differ in types, framework or moment alone."""
    alike: dict[str, dict[str, Any]] = {}
    for framework in FRAMEWORKS:
        for moment in MOMENTS:
            same: dict[str, tuple[list[str], dict[Offload, Verdict]]] = {}
            for type in types(backend):
                found = {each: verdict(backend, type, framework, moment, each, device) for each in OFFLOADS}
                none = found["none"]
                # What is refused in any case need not be told apart by its offloads.
                key = none.why if none.state == "refused" else str(found)
                same.setdefault(key, ([], found))[0].append(type)
            for key, (names, found) in same.items():
                row = alike.setdefault(f"{names} {key}", {"types": names, "where": [], "offloads": _table(found)})
                how = saving(backend, framework, moment, device)
                row["where"].append({"framework": framework, "moment": moment, "saved_by": how.by, "read_by": how.read})
    return list(alike.values())


def _table(found: Mapping[Offload, Verdict]) -> dict[Offload, dict[str, Any]]:
    names = ("state", "why", "instead", "measured")
    return {offload: {name: getattr(each, name) for name in names} for offload, each in found.items()}


def _backend(name: str, device: Place) -> dict[str, Any]:
    needed = package(name)
    problem = command = None
    try:
        check_package(needed)
    except UserError as error:
        problem, command = str(error), error.hint
    found = rows(name, device)
    return {
        "backend": name,
        "package": needed.name,
        "version": needed.installed,
        "problem": problem,
        "command": command,
        "usable": problem is None and any(works(row) for row in found),
        "types": [
            {"name": each.name, "bits": each.bits, "group": each.group, "calibrated": each.calibrated}
            for each in types(name).values()
        ],
        "rows": found,
    }


def works(row: Mapping[str, Any]) -> bool:
    """Whether a row of :func:`rows` is not refused as a whole."""
    return any(each["state"] != "refused" for each in row["offloads"].values())


def by_bits(types: Iterable[Mapping[str, Any]]) -> dict[float, list[str]]:
    """Names of types, the fewest bits first."""
    found: dict[float, list[str]] = {}
    for each in sorted(types, key=lambda each: float(each["bits"])):
        found.setdefault(each["bits"], []).append(each["name"])
    return found

"""What a report of a bug needs to know of a machine: no tokens, and no folders of the user but the store's."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from hubquant.engine.limits import cores
from hubquant.engine.machine import memory_bytes
from hubquant.engine.store import Store
from hubquant.llamacpp.process import installed_version
from hubquant.quants.cpu.vector.native import host_processor
from hubquant.version import __version__, version_of

PACKAGES = ("torch", "transformers", "numba", "llvmlite", "numpy", "gguf", "huggingface_hub", "datasets", "xllamacpp")
SETTINGS = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET", "HUBQUANT_HOME", "OMP_NUM_THREADS", "NUMBA_CPU_NAME")
_USEFUL = (
    "avx",
    "avx2",
    "f16c",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512vnni",
    "amx-int8",
    "neon",
    "dotprod",
    "i8mm",
    "sve",
)


def environment(store: Store) -> dict[str, Any]:
    """Sizes in bytes; None for a package that is not installed."""
    name, features = host_processor()
    return {
        "hubquant": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {package: version_of(package) for package in PACKAGES},
        "llama_cpp_build": _build(installed_version()),
        "processor": name,
        "features": [feature for feature in _USEFUL if feature in features],
        "cores": cores(),
        "memory": memory_bytes(),
        "devices": _devices(),
        "store": _store(store),
        "set": [name for name in SETTINGS if os.environ.get(name)],
        "prefix": "virtual environment" if sys.prefix != sys.base_prefix else "system",
    }


def _build(xllamacpp: str | None) -> str | None:
    """llama.cpp's build is the last part of the wheel's version."""
    return None if xllamacpp is None else f"b{xllamacpp.rpartition('.')[2]}"


def _devices() -> list[dict[str, Any]]:
    import torch

    found: list[dict[str, Any]] = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found.append({"name": f"cuda:{number} {properties.name}", "memory": int(properties.total_memory)})
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "memory": None})
    return found


def _store(store: Store) -> dict[str, Any]:
    kept = store.kept()
    place = next(parent for parent in (store.root, *store.root.parents) if parent.exists())
    return {
        "path": _short(store.root),
        "size": sum(each.size for each in kept),
        "artifacts": len(kept),
        "free": shutil.disk_usage(place).free,
    }


def _short(path: Path) -> str:
    """With ~ for the user's own folder, whose name may be theirs."""
    try:
        return f"~/{path.relative_to(Path.home()).as_posix()}"
    except (ValueError, RuntimeError):
        return str(path)

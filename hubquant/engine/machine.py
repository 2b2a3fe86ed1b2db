"""What this machine has, and whether that is enough."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hubquant.engine.limits import free_memory_limit, memory_limit
from hubquant.errors import NotSupportedYet, OutputError
from hubquant.units import size


def memory_bytes() -> int:
    """Of the machine, or what this process may use of it."""
    import psutil

    return int(min(psutil.virtual_memory().total, memory_limit()))


def free_memory_bytes() -> int:
    """That can be had without swapping."""
    import psutil

    return int(min(psutil.virtual_memory().available, free_memory_limit()))


def check_memory(needed: int, hint: str) -> None:
    """Raises ``NotSupportedYet`` with this ``hint`` where there is less."""
    total = memory_bytes()
    if needed > total:
        raise NotSupportedYet(
            "this work in this memory",
            why=f"it needs about {size(needed)} and {size(total)} may be used",
            hint=hint,
        )


def check_disk(needed: int, folder: Path, option: str) -> None:
    """Raises ``OutputError`` where ``folder``, which ``option`` names, cannot be written to or has less room."""
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not place.is_dir():
        raise OutputError(f"{place} is a file", hint=f"pass {option} with a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {place}", hint=f"pass {option} with a folder of your own")
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            f"not enough disk space in {place}",
            why=f"the run needs {size(needed)} and {size(free)} are free",
            hint=f"free some space, or pass {option} with a folder on another disk",
        )


def same_disk(first: Path, second: Path) -> bool:
    """Whether a file of one folder can be linked into the other, as far as the disks tell; neither need be there."""
    devices = [
        next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists()).stat().st_dev
        for folder in (first, second)
    ]
    return devices[0] == devices[1]


def resident_bytes() -> int:
    """Memory that this process takes now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Memory that this process has taken at the most, where the system tells (Linux), else what it takes now."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), resident_bytes())

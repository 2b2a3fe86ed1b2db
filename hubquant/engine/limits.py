"""What this process may use of a machine: the limits of its control groups and of its own.

The files are those of https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max, cpu.max) and of cgroup-v1. Where
there are none, as outside Linux, nothing is limited.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_GROUPS = "sys/fs/cgroup"


def memory_limit(root: Path = _ROOT) -> float:
    """The most bytes; infinity without a limit. ``root`` is where the system's proc and sys are."""
    groups = [limit for limit, _, _ in _memory(root)]
    return min([*groups, _address_space()])


def free_memory_limit(root: Path = _ROOT) -> float:
    """How many bytes more; infinity without a limit. What a group holds of files can be had back."""
    groups = [limit - max(0, used - files) for limit, used, files in _memory(root)]
    return max(0, min([*groups, _address_space() - _own_addresses(root)]))


def cores(root: Path = _ROOT) -> int:
    """How many processors may be used at a time, at least one."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([there, *map(math.ceil, _quotas(root))]))


def _memory(root: Path) -> Iterator[tuple[float, float, float]]:
    """(limit, in use, files of that) of each group that has a limit."""
    names = "memory.max", "memory.current", r"^(?:in)?active_file (\d+)"
    for folder in _groups(root, ""):
        yield from _memory_of(folder, *names)
    names = "memory.limit_in_bytes", "memory.usage_in_bytes", r"^total_(?:in)?active_file (\d+)"
    for folder in _groups(root, "memory"):
        yield from _memory_of(folder, *names)


def _memory_of(folder: Path, limit: str, used: str, files: str) -> Iterator[tuple[float, float, float]]:
    most = _number(_text(folder / limit))
    if most is not None:
        held = sum(map(int, re.findall(files, _text(folder / "memory.stat"), re.MULTILINE)))
        yield most, _number(_text(folder / used)) or 0, held


def _quotas(root: Path) -> Iterator[float]:
    """Processors of each group that has a limit."""
    for folder in _groups(root, ""):
        found = re.fullmatch(r"(\d+) (\d+)\s*", _text(folder / "cpu.max"))
        if found:
            yield int(found[1]) / int(found[2])
    for folder in _groups(root, "cpu"):
        quota, period = (_number(_text(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
        if quota and period:
            yield quota / period


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The group that this process is in and those around it, of version 1 by the name of a controller, of 2 by "".

    In a container the path may be one outside: then the group is what is mounted.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            for mount in (controller,) if controller else ("", "unified"):
                top = root / _GROUPS / mount
                inside = top / path.lstrip("/")
                yield from (folder for folder in (inside, *inside.parents) if folder.is_relative_to(top))


def _address_space() -> float:
    """RLIMIT_AS"""
    try:
        import resource
    except ImportError:  # Windows
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def _own_addresses(root: Path) -> int:
    found = re.search(r"^VmSize:\s+(\d+) kB", _text(root / "proc/self/status"), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def _number(text: str) -> int | None:
    """None for "max" and −1, which stand for no limit, and for what is not there."""
    return int(text) if text.strip().isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

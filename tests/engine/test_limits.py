"""What control groups and the process's own limits leave of a machine."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubquant.engine.limits import cores, free_memory_limit, memory_limit
from hubquant.engine.machine import memory_bytes

GROUPS = Path("/sys/fs/cgroup")
GB = 10**9


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def unified(tmp_path: Path) -> Path:
    """Version 2: 3 GB in the slice, 4 of which the group itself could use."""
    group = "sys__fs__cgroup__user"
    return write(
        tmp_path,
        proc__self__cgroup="0::/user/me\n",
        **{
            f"{group}__memoryDOTmax": f"{3 * GB}\n",
            f"{group}__memoryDOTcurrent": f"{2 * GB}\n",
            f"{group}__memoryDOTstat": f"anon {GB}\ninactive_file {GB // 4}\nactive_file {GB // 4}\n",
            f"{group}__me__memoryDOTmax": f"{4 * GB}\n",
            f"{group}__me__memoryDOTcurrent": f"{GB}\n",
            f"{group}__cpuDOTmax": "max 100000\n",
            f"{group}__me__cpuDOTmax": "50000 100000\n",
        },
    )


def test_the_smallest_limit_of_all_groups_around_counts(unified: Path) -> None:
    assert memory_limit(unified) == 3 * GB
    assert free_memory_limit(unified) == 1.5 * GB
    assert cores(unified) == 1


def test_no_limit(unified: Path) -> None:
    for folder in ("user", "user/me"):
        (unified / "sys/fs/cgroup" / folder / "memory.max").write_text("max\n")
    assert memory_limit(unified) == free_memory_limit(unified) == math.inf
    assert memory_limit(unified / "nothing") == math.inf
    assert cores(unified / "nothing") == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("path", ["/box", "/outside/of/the/container"])
def test_version_1(tmp_path: Path, path: str) -> None:
    group = "__box" if path == "/box" else ""
    memory, cpu = f"sys__fs__cgroup__memory{group}__memoryDOT", f"sys__fs__cgroup__cpu{group}__cpuDOTcfs_"
    files = {
        f"{memory}limit_in_bytes": f"{2 * GB}\n",
        f"{memory}usage_in_bytes": f"{GB}\n",
        f"{memory}stat": f"total_inactive_file {GB // 2}\ninactive_file 5\n",
        f"{cpu}quota_us": "50000\n",
        f"{cpu}period_us": "100000\n",
    }
    root = write(tmp_path, proc__self__cgroup=f"3:memory:{path}\n2:cpu,cpuacct:{path}\n0::/\n", **files)
    assert memory_limit(root) == 2 * GB
    assert free_memory_limit(root) == 1.5 * GB
    assert cores(root) == 1


REPORT = "from hubquant.engine import machine as m; print(m.memory_bytes(), m.free_memory_bytes())"


def reported(code: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    total, free = map(int, done.stdout.split())
    return total, free


def test_a_limit_on_addresses() -> None:
    total, free = reported(f"import resource as r; r.setrlimit(r.RLIMIT_AS, ({GB}, {GB})); {REPORT}")
    assert total == GB
    assert 0 < free < GB


@pytest.fixture
def group() -> Iterator[Path]:
    """A real group of 512 MiB."""
    old = (GROUPS / "memory").is_dir()
    folder = GROUPS / ("memory" if old else "") / f"hubquant-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no group can be made here: {error}")
    try:
        try:
            (folder / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(1 << 29))
        except OSError as error:
            pytest.skip(f"memory cannot be limited here: {error}")
        yield folder
    finally:
        folder.rmdir()


def test_a_real_group(group: Path) -> None:
    enter = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
    total, free = reported(f"{enter}; {REPORT}")
    assert total == 1 << 29
    assert 0 < free < total
    assert memory_bytes() != total

"""What the file system is asked for by any room."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hubquant.disk import locked
from hubquant.errors import OutputError

HOLDER = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print(flush=True)
input()
"""


def test_a_lock_is_held_by_one_process(tmp_path: Path) -> None:
    lock, in_use = tmp_path / "new" / "lock", OutputError("it is in use")
    with locked(lock, in_use):
        assert lock.is_file()
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline()
        with pytest.raises(OutputError, match="it is in use"), locked(lock, in_use):
            pass
        holder.communicate(b"\n")
    with locked(lock, in_use):
        pass


def test_a_lock_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"), locked(tmp_path / "file" / "lock", OutputError("in use")):
        pass

"""What the file system refuses while writing, as errors a user can act on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hubquant.errors import DiskFullError, OutputError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise ``DiskFullError`` or ``OutputError`` for whatever stops the writing of ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from error
        raise OutputError(
            f"cannot write {path}",
            why=os.strerror(error.errno) if error.errno else str(error),
            hint="choose a folder that you may write to",
        ) from error


def write_at_once(path: Path, content: bytes) -> None:
    """Replace the file at ``path``, or leave it as it was. Raises ``OutputError`` or ``DiskFullError``."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def disk_full(path: Path) -> DiskFullError:
    return DiskFullError(
        f"the disk is full at {path}",
        why="what is finished is kept",
        hint="free some space and run the same line again: it continues where it stopped",
    )

"""Paths as users type them, and what the file system refuses while writing, as errors a user can act on."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path, PurePosixPath

import xxhash
from filelock import FileLock, Timeout

from hubquant.errors import DiskFullError, OutputError

_PIECE = 1 << 22  # bytes
_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_TEXT_FILES = (".txt", ".raw", ".md", ".json", ".jsonl", ".parquet", ".csv")


def user_path(text: str) -> Path:
    """With ``~`` expanded where that is somebody's; unlike ``Path.expanduser`` it takes any text."""
    return Path(os.path.expanduser(text))


def check_ends(path: Path) -> None:
    """OSError for a pipe or a device: reading one may take for ever."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")


def inside(name: str) -> str:
    """A path relative to a folder, with slashes. ValueError for one that leads out of it or to its hidden state."""
    parts = PurePosixPath(name).parts
    if not parts or "\\" in name or ":" in parts[0] or ".." in parts or parts[0] in ("/", "//", ".hubquant"):
        raise ValueError(f"{name} is no file of the folder")
    return name


def without_folders(path: str) -> str:
    """What may be shown of a file or folder of this machine: its name."""
    return path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or path


def public_name(name: str) -> str:
    """Of a text that was read: a dataset's id as it is, a path of some machine without its folders."""
    return name if _ID.fullmatch(name) and not name.endswith(_TEXT_FILES) else without_folders(name)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise ``DiskFullError`` or ``OutputError`` for whatever stops the writing of ``path``."""
    try:
        yield
    except OSError as error:
        # HDF5 tells the system's error in its text only
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            raise disk_full(path) from error
        raise OutputError(
            f"cannot write {path}",
            why=os.strerror(error.errno) if error.errno else str(error),
            hint="choose a folder that you may write to",
        ) from error


@contextmanager
def locked(lock: Path, in_use: OutputError) -> Iterator[None]:
    """Only one process at a time holds ``lock``, a file; raises ``in_use`` where another one does."""
    with writing(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock, blocking=False)
        try:
            held.acquire()
        except Timeout:
            raise in_use from None
    try:
        yield
    finally:
        held.release()


def unfinished(path: Path) -> Path:
    """Where what becomes ``path`` is written until it is whole; a killed process may leave it."""
    return path.with_name(f".{path.name}.writing")


def write_at_once(path: Path, content: bytes | bytearray) -> None:
    """Replace the file at ``path``, or leave it as it was. Raises ``OutputError`` or ``DiskFullError``."""
    temporary = unfinished(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb", buffering=0) as file:
                write_all(file, memoryview(content))
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def place(source: Path, target: Path, temporary: Path) -> None:
    """Put a finished file where it belongs: a hard link where the file system has them, a copy otherwise. At once;
    ``temporary`` is where it becomes whole, on the disk of ``target``. Raises ``OutputError`` or ``DiskFullError``."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            sync(temporary)
        temporary.replace(target)
        temporary.unlink(missing_ok=True)  # a rename does nothing between two names of one file
        sync(target.parent)


def write_all(file: FileIO, content: bytes | memoryview) -> None:
    """To an unbuffered file, which may take less than it is given."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) or 0 :]


def sync(path: Path) -> None:
    """Wait until the contents of a file, or the names in a folder, would survive a power cut."""
    if os.name == "nt":  # which opens no folder, and syncs no file that is open for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path: Path, advance: Callable[[int], None] = lambda _: None) -> str:
    """XXH3-128 of a file; ``advance`` is called with bytes read."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            advance(len(piece))
    return digest.hexdigest()


def pieces(file: FileIO, start: int, n_bytes: int) -> Iterator[bytes]:
    """``n_bytes`` from byte ``start`` of ``file``, some at a time. Raises ``EOFError`` where it ends before."""
    file.seek(start)
    while n_bytes:
        if not (piece := file.read(min(n_bytes, _PIECE))):
            raise EOFError
        yield piece
        n_bytes -= len(piece)


def sha256_of(path: Path) -> str:
    """sha256 of a file in hex, as the Hub names contents; :func:`checksum` is faster where nobody else reads it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_full(path: Path) -> DiskFullError:
    return DiskFullError(
        f"the disk is full at {path}",
        why="what is finished is kept",
        hint="free some space and run the same line again: it continues where it stopped",
    )

"""Where the arrays of an HDF5 file lie. The library loops on some damaged files, so that another process asks it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hubquant.limited import Worker, WorkError

SECONDS = 5
MEMORY = 1 << 30  # bytes


class StoredArray(BaseModel):
    """``dtype`` is numpy's name, ``offset`` the byte of the file at which the array begins; it lies there in one
    piece."""

    model_config = ConfigDict(frozen=True)
    dtype: str
    shape: tuple[int, ...]
    offset: int


class FileStructure(BaseModel):
    """The texts and the arrays that an HDF5 file holds at its root."""

    model_config = ConfigDict(frozen=True)
    attributes: dict[str, str]
    arrays: dict[str, StoredArray]


def read_structure(path: Path) -> FileStructure:
    """Raises ``OSError`` when there is no such file and ``ValueError`` for what is no sound HDF5 file."""
    status = path.stat()
    return _read_structure(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _read_structure(path: Path, *state: int) -> FileStructure:  # noqa: ARG001
    worker = Worker(describe, seconds=SECONDS, memory=MEMORY)
    try:
        return FileStructure.model_validate(worker(path=str(path)))
    except (WorkError, ValidationError) as error:
        raise ValueError(str(error)) from None
    finally:
        worker.close()


def describe(path: str) -> dict[str, Any]:
    """The fields of :class:`FileStructure`. Anything may happen in here: see :func:`read_structure`.

    Raises ``ValueError`` for a file that is cut off and for arrays in several pieces.
    """
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError:
        raise ValueError("it is not a complete HDF5 file") from None
    with file:
        arrays = {name: _array(name, item) for name, item in file.items()}
        return {"attributes": {key: str(value) for key, value in file.attrs.items()}, "arrays": arrays}


def _array(name: str, item: Any) -> dict[str, Any]:
    offset = item.id.get_offset() if hasattr(item.id, "get_offset") else None
    if offset is None and item.size:
        raise ValueError(f"its {name} do not lie in one piece")
    return {"dtype": item.dtype.str, "shape": item.shape, "offset": offset or 0}

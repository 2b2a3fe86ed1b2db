"""Writes a baseline so that it appears complete or not at all, and goes on where a killed process stopped."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
from torch import Tensor

from hubquant.disk import disk_full, sync, write_all, writing
from hubquant.errors import BaselineError
from hubquant.evaluate.baseline import CHECKSUMS, DATASETS, Baseline, BaselineIdentity, EncodedRows, encode
from hubquant.evaluate.hdf5 import read_structure
from hubquant.evaluate.runner import Runner
from hubquant.evaluate.scoring import n_scored, scored_logits, scored_targets

if TYPE_CHECKING:
    from hubquant.calibration import Chunks


def write_baseline(
    runner: Runner,
    chunks: Chunks,
    path: Path,
    *,
    name: str,
    revision: str,
    advance: Callable[[int], None] = lambda _: None,
) -> Baseline:
    """Store at ``path`` the distributions that ``runner`` gives for ``chunks``; ``advance`` is called once per chunk.

    ``name`` and ``revision`` of the model go into the file. A baseline of the same model and chunks that is already
    there is opened; one that a killed process left goes on at the first missing chunk. Raises EvaluationError for
    logits that are not finite, DiskFullError before the work when there is too little room, and OutputError.
    """
    identity = BaselineIdentity(name, revision, chunks.fingerprint)
    if (finished := _finished(path, identity)) is not None:
        advance(finished.n_chunks)
        return finished
    writer = _Writer.resume(path, identity)
    if writer:
        advance(len(writer.done))
    for i, ids in enumerate(chunks.ids):
        if writer and i in writer.done:
            continue
        logits = scored_logits(runner, ids)
        writer = writer or _Writer.create(path, identity, chunks.ids, n_vocab=logits.shape[1])
        writer.write(i, encode(logits, scored_targets(ids)))
        advance(1)
    if writer is None:
        raise BaselineError("there is nothing to write a baseline on", why="the evaluation text has no chunks")
    writer.finish()
    return Baseline.open(path)


def _finished(path: Path, identity: BaselineIdentity) -> Baseline | None:
    if not path.exists():
        return None
    try:
        baseline = Baseline.open(path)
    except BaselineError:
        return None
    if baseline.identity == identity and all(map(baseline.is_whole, range(baseline.n_chunks))):
        return baseline
    baseline.close()
    return None


class _Writer:
    """Fills a preallocated HDF5 file with plain writes at the offsets of its datasets.

    The HDF5 library only creates the file, under another name; after that its structure never changes, so that a kill
    at any moment leaves a sound file of which the journal tells the finished chunks.
    """

    def __init__(self, path: Path, offsets: Mapping[str, int], journal: Mapping[int, int]) -> None:
        self._path = path
        self._offsets = offsets
        self.done = set(journal)
        with writing(path):
            self._file = FileIO(_partial(path), "r+")
            _journal(path).write_text("".join(f"{chunk} {checksum}\n" for chunk, checksum in journal.items()))

    @classmethod
    def create(cls, path: Path, identity: BaselineIdentity, ids: Tensor, n_vocab: int) -> Self:
        """For the chunks of token ``ids``, int64 [chunks, chunk_size], with room for all scores (two bytes for each
        word of the vocabulary and scored token). Raises ``DiskFullError`` before the first byte, or ``OutputError``."""
        n_chunks, chunk_size = ids.shape
        rows = (n_chunks, n_scored(chunk_size))
        new = path.with_name(f".{path.name}.new")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free < 2 * n_vocab * rows[0] * rows[1]:
                raise disk_full(path)
            with h5py.File(new, "w", libver="latest") as file:
                file.attrs.update(identity.attributes())
                _preallocate(file, "codes", (*rows, n_vocab), np.uint16)
                for name, dtype in (
                    ("scale", np.float32),
                    ("minimum", np.float32),
                    ("nll", np.float32),
                    ("top", np.int32),
                ):
                    _preallocate(file, name, rows, dtype)
                _preallocate(file, CHECKSUMS, rows[:1], np.uint32)
                _preallocate(file, "tokens", tuple(ids.shape), np.int32)
                file["tokens"][...] = ids.numpy()
            _journal(path).unlink(missing_ok=True)
            new.replace(_partial(path))
        return cls(path, _offsets(_partial(path)), {})

    @classmethod
    def resume(cls, path: Path, identity: BaselineIdentity) -> Self | None:
        """The unfinished file beside ``path`` if it is of the same model and chunks and its data is whole."""
        if not _partial(path).exists():
            return None
        try:
            with Baseline.open(_partial(path)) as partial:
                if partial.identity != identity or not partial.has_checksums:
                    return None
                journal = _read_journal(path)
                kept = {i: sum for i, sum in journal.items() if i < partial.n_chunks and partial.checksum(i) == sum}
        except BaselineError:
            return None
        return cls(path, _offsets(_partial(path)), kept)

    def write(self, chunk: int, rows: EncodedRows) -> None:
        with writing(self._path):
            checksum = 0
            for name in DATASETS:
                data = getattr(rows, name).numpy().tobytes()
                checksum = zlib.crc32(data, checksum)
                self._file.seek(self._offsets[name] + chunk * len(data))
                write_all(self._file, data)
            self._file.seek(self._offsets[CHECKSUMS] + 4 * chunk)
            write_all(self._file, checksum.to_bytes(4, "little"))
            with _journal(self._path).open("a") as journal:
                journal.write(f"{chunk} {checksum}\n")
        self.done.add(chunk)

    def finish(self) -> None:
        with writing(self._path):
            os.fsync(self._file.fileno())
            self._file.close()
            _partial(self._path).replace(self._path)
            sync(self._path.parent)
            _journal(self._path).unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _journal(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial.journal")


def _read_journal(path: Path) -> dict[int, int]:
    text = _journal(path).read_bytes() if _journal(path).exists() else b""
    lines = [line.split() for line in text[: text.rfind(b"\n") + 1].splitlines()]
    return {int(line[0]): int(line[1]) for line in lines if len(line) == 2 and all(part.isdigit() for part in line)}


def _preallocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    """A contiguous dataset whose place in the file is fixed now and not filled; no timestamps."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    settings.set_obj_track_times(False)
    type_id = h5py.h5t.py_create(np.dtype(dtype).newbyteorder("<"))
    h5py.h5d.create(file.id, name.encode(), type_id, h5py.h5s.create_simple(shape), settings)


def _offsets(path: Path) -> dict[str, int]:
    arrays = read_structure(path).arrays
    return {name: arrays[name].offset for name in (*DATASETS, CHECKSUMS)}

"""The state of unfinished work, exact to the bit."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash

from hubquant.disk import sync, unfinished, writing

SNAPSHOT_SECONDS = 30.0


@dataclass(frozen=True, eq=False)
class Snapshot:
    """``tensors`` after the first ``chunks_done`` chunks, or blocks where a model is streamed."""

    tensors: Mapping[str, torch.Tensor]
    chunks_done: int


class KeptState:
    """The state of one piece of work in a file, at most every so many seconds but never for more than a twentieth of
    the time. ``fingerprint`` says what it depends on."""

    def __init__(self, path: Path, fingerprint: str, seconds: float = SNAPSHOT_SECONDS) -> None:
        self._path, self._fingerprint, self._seconds = path, fingerprint, seconds
        self._saved_at, self._took = time.monotonic(), 0.0

    def found(self) -> Snapshot | None:
        """What a killed process left."""
        return read_snapshot(self._path, self._fingerprint)

    def keep(self, state: Callable[[], Snapshot], *, last: bool) -> None:
        start = time.monotonic()
        if last or start - self._saved_at >= max(self._seconds, 20 * self._took):
            write_snapshot(self._path, state(), self._fingerprint)
            self._saved_at = time.monotonic()
            self._took = self._saved_at - start


def read_snapshot(path: Path, fingerprint: str) -> Snapshot | None:
    """What an earlier run with this ``fingerprint`` left, None when there is nothing or it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != fingerprint:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("xxh3_128") != _checksum(tensors):
                return None
            return Snapshot(tensors, int(metadata["chunks_done"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def write_snapshot(path: Path, snapshot: Snapshot, fingerprint: str) -> None:
    """Replace the file at ``path`` at once. Raises ``OutputError`` or ``DiskFullError``.

    The tensors go into the file without a copy: those of a streamed model may be larger than the memory.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    metadata = {
        "fingerprint": fingerprint,
        "chunks_done": str(snapshot.chunks_done),
        "xxh3_128": _checksum(snapshot.tensors),
    }
    temporary = unfinished(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file(dict(snapshot.tensors), temporary, metadata)
            except SafetensorError as error:  # which hides the number of the system's error
                raise OSError(errno.ENOSPC if "No space left" in str(error) else 0, str(error)) from error
            sync(temporary)
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

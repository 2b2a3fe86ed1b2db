"""The state of an unfinished collection, exact to the bit."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from hubquant.errors import DiskFullError, OutputError


@dataclass(frozen=True, eq=False)
class Snapshot:
    """``tensors`` after the first ``chunks_done`` chunks."""

    tensors: Mapping[str, torch.Tensor]
    chunks_done: int


def read_snapshot(path: Path, fingerprint: str) -> Snapshot | None:
    """What an earlier run with this ``fingerprint`` left, None when there is nothing or it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != fingerprint:
                return None
            return Snapshot({name: file.get_tensor(name) for name in file.keys()}, int(metadata["chunks_done"]))  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def write_snapshot(path: Path, snapshot: Snapshot, fingerprint: str) -> None:
    """Replace the file at ``path`` at once. Raises ``OutputError`` or ``DiskFullError``."""
    from safetensors.torch import save

    metadata = {"fingerprint": fingerprint, "chunks_done": str(snapshot.chunks_done)}
    temporary = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(save(dict(snapshot.tensors), metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no room left for {path.name}",
                why="it keeps the state of the collection",
                hint="free some space and run the same command again: it goes on from the last snapshot",
            ) from None
        raise OutputError(
            f"cannot write {path}", why=error.strerror or str(error), hint="choose a folder that you may write to"
        ) from None

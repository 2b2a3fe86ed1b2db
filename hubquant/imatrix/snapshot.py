"""The state of an unfinished collection, exact to the bit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from hubquant.disk import writing


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
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(save(dict(snapshot.tensors), metadata))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

"""What hubquant writes beside weights that a library quantized: not every library says in config.json that it did."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from hubquant.checkpoint.json_files import read_table
from hubquant.disk import write_at_once
from hubquant.errors import CheckpointError
from hubquant.typed import Typed, read_typed

MARKER = "hubquant.json"
_HINT = f"remove {MARKER}, if it is not from hubquant, or save the model anew"


class Marker(Typed):
    """``versions`` are those of the packages that wrote the weights; ``skipped`` are the layers that stayed floats."""

    backend: str
    type: str
    versions: dict[str, str]
    skipped: tuple[str, ...] = Field(default=(), strict=False)  # JSON has lists


def write_marker(folder: Path, marker: Marker) -> None:
    """Raises ``OutputError`` or ``DiskFullError``."""
    write_at_once(folder / MARKER, marker.model_dump_json(indent=2).encode() + b"\n")


def read_marker(folder: Path) -> Marker | None:
    """None where there is none. Raises ``CheckpointError`` for one that hubquant did not write."""
    if not (folder / MARKER).is_file():
        return None
    return read_typed(Marker, read_table(folder / MARKER, hint=_HINT), MARKER, CheckpointError, _HINT)

"""What hubquant writes beside weights that a library quantized: not every library says in config.json that it did."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from hubquant.checkpoint.json_files import read_table
from hubquant.disk import write_at_once
from hubquant.errors import CheckpointError

MARKER = "hubquant.json"


class Marker(BaseModel):
    """``versions`` are those of the packages that wrote the weights; ``skipped`` are the layers that stayed floats."""

    model_config = ConfigDict(frozen=True)

    backend: str
    type: str
    versions: dict[str, str]
    skipped: tuple[str, ...] = ()


def write_marker(folder: Path, marker: Marker) -> None:
    """Raises ``OutputError`` or ``DiskFullError``."""
    write_at_once(folder / MARKER, marker.model_dump_json(indent=2).encode() + b"\n")


def read_marker(folder: Path) -> Marker | None:
    """None where there is none. Raises ``CheckpointError`` for one that hubquant did not write."""
    if not (folder / MARKER).is_file():
        return None
    hint = f"remove {MARKER}, if it is not from hubquant, or save the model anew"
    table = read_table(folder / MARKER, hint=hint)
    try:
        return Marker.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{MARKER} does not tell how the weights are stored", why=f"{field}: {first['msg']}", hint=hint
        ) from None

"""The small JSON files of a model folder, read as input from a stranger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hubquant.checkpoint.config_types import checked_config
from hubquant.checkpoint.headers import load_json
from hubquant.errors import CheckpointError

CONFIG = "config.json"
LARGEST_JSON = 100_000_000  # bytes


def read_config(folder: Path) -> dict[str, Any]:
    return checked_config(read_table(folder / CONFIG, hint="check that this is a transformers model"))


def read_table(path: Path, hint: str) -> dict[str, Any]:
    """Raises ``CheckpointError`` for what is missing, too large or no JSON object."""
    table = _read(path, hint)
    if not isinstance(table, dict):
        raise CheckpointError(f"{path.name} does not hold a table", hint=hint)
    return table


def read_list(path: Path, hint: str) -> list[Any]:
    """Raises ``CheckpointError`` for what is missing, too large or no JSON array."""
    values = _read(path, hint)
    if not isinstance(values, list):
        raise CheckpointError(f"{path.name} does not hold a list", hint=hint)
    return values


def _read(path: Path, hint: str) -> Any:
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{path.name} has more than {LARGEST_JSON:,} bytes", hint=hint)
        return load_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {path.name} in {path.parent}", hint=hint) from error
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read", why=error.strerror or str(error), hint=hint) from error
    except ValueError as error:
        raise CheckpointError(f"{path.name} is not sound JSON", why=str(error), hint=hint) from error

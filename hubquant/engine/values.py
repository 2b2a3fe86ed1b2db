"""Small results of tasks as JSON in their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from hubquant.disk import write_at_once

Value = TypeVar("Value")


def keep_value(path: Path, value: object) -> None:
    """Of a dataclass."""
    write_at_once(path, json.dumps(TypeAdapter(type(value)).dump_python(value), indent=1).encode())


def read_value(path: Path, type: type[Value]) -> Value:
    return TypeAdapter(type).validate_json(path.read_bytes())

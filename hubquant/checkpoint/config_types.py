"""The types of what config.json says of the whole model. transformers checks the settings of each architecture."""

from __future__ import annotations

import math
from typing import Any

from hubquant.errors import CheckpointError
from hubquant.typed import Typed, read_typed

NAME = "config.json"
_SPECIAL_NUMBERS = {"Infinity": math.inf, "-Infinity": -math.inf}


class _Config(Typed):
    architectures: list[str] | None = None
    model_type: str | None = None
    auto_map: dict[str, Any] | None = None
    dtype: str | dict[str, Any] | None = None
    torch_dtype: str | dict[str, Any] | None = None
    tie_word_embeddings: bool | None = None
    quantization_config: dict[str, Any] | None = None
    compression_config: dict[str, Any] | None = None
    text_config: _Config | None = None


def checked_config(content: Any) -> dict[str, Any]:
    """The settings of a config.json; ``CheckpointError`` with the key whose value has another type."""
    read_typed(_Config, content, NAME, CheckpointError)
    return {name: _number(value) for name, value in content.items()}


def _number(value: Any) -> Any:
    """transformers writes numbers that JSON does not have as {"__float__": "Infinity"}, wherever they stand."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__float__"} and isinstance(value["__float__"], str):
        return _SPECIAL_NUMBERS.get(value["__float__"], value)
    return {name: _number(item) for name, item in value.items()}

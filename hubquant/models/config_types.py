"""The types of what config.json says of the whole model. transformers checks the settings of each architecture."""

from __future__ import annotations

from typing import Any

from hubquant.errors import CheckpointError
from hubquant.typed import Typed, read_typed

NAME = "config.json"


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
    """The content of a config.json; ``CheckpointError`` with the key whose value has another type."""
    read_typed(_Config, content, NAME, CheckpointError)
    return dict(content)

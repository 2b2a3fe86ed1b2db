"""How an embedding model makes one vector of a text's many: sentence-transformers' files, GGUF's ``pooling_type``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gguf import PoolingType

from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

POOLING = "1_Pooling/config.json"
_MODES = {
    "pooling_mode_cls_token": PoolingType.CLS,
    "pooling_mode_mean_tokens": PoolingType.MEAN,
    "pooling_mode_lasttoken": PoolingType.LAST,
}


def pooling_metadata(folder: Path) -> Metadata:
    """The key without the architecture's prefix; empty for a model that is not sentence-transformers'.

    Raises ``CheckpointError`` for a file that cannot be read, ``NotSupportedYet`` for other poolings than llama.cpp's.
    """
    if not (folder / POOLING).is_file():
        return {}
    settings = _load(folder / POOLING)
    modes = [mode for mode, value in settings.items() if mode.startswith("pooling_mode_") and value is True]
    if not modes and isinstance(settings.get("pooling_mode"), str):  # as newer versions write it
        modes = [next((mode for mode in _MODES if _newer(mode) == settings["pooling_mode"]), settings["pooling_mode"])]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise NotSupportedYet(f"pooling by {' and '.join(modes) or 'nothing'}", why=f"known are {', '.join(_MODES)}")
    return {"pooling_type": u32(int(_MODES[modes[0]]))}


def _newer(mode: str) -> str:
    return mode.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens")


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{POOLING} cannot be read", why=str(error).splitlines()[0]) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{POOLING} cannot be read", why="it is not a JSON object")
    return value

"""How an embedding model makes one vector of a text's many: sentence-transformers' files, GGUF's ``pooling_type``."""

from __future__ import annotations

from gguf import PoolingType

from hubquant.checkpoint.modules import POOLING
from hubquant.convert.rules.rule import Settings
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

_MODES = {
    "pooling_mode_cls_token": PoolingType.CLS,
    "pooling_mode_mean_tokens": PoolingType.MEAN,
    "pooling_mode_lasttoken": PoolingType.LAST,
}


def pooling_metadata(settings: Settings) -> Metadata:
    """The key without the architecture's prefix; empty for a model that is not sentence-transformers'. ``settings`` are
    those of a :class:`Checkpoint`.

    Raises ``NotSupportedYet`` for other poolings than llama.cpp's.
    """
    module = settings.get(POOLING)
    if module is None:
        return {}
    modes = [mode for mode, value in module.items() if mode.startswith("pooling_mode_") and value is True]
    if not modes and isinstance(module.get("pooling_mode"), str):  # as newer versions write it
        modes = [next((mode for mode in _MODES if _newer(mode) == module["pooling_mode"]), module["pooling_mode"])]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise NotSupportedYet(f"pooling by {' and '.join(modes) or 'nothing'}", why=f"known are {', '.join(_MODES)}")
    return {"pooling_type": u32(int(_MODES[modes[0]]))}


def _newer(mode: str) -> str:
    return mode.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens")

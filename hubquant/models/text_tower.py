"""The language model inside a multimodal checkpoint: its part of config.json, and the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from hubquant.errors import CheckpointError

# What the names of a multimodal checkpoint become: those that the same language model has alone.
TEXT_NAMES = (
    (r"^(model\.)?language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "model."),
    (r"^model\.(language_model|text_model)\.", "model."),
)
_TEXT = re.compile("|".join(["lm_head\\.", "mtp\\.", *(pattern for pattern, _ in TEXT_NAMES)]))
_OUTPUT = re.compile(r"^((model\.)?language_model\.)?lm_head\.weight$")
_TIED = "tie_word_embeddings"
QUANTIZATION = ("quantization_config", "compression_config")


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether config.json describes a language model beside other towers."""
    return isinstance(config.get("text_config"), dict)


def is_text(name: str) -> bool:
    """Whether a tensor of a multimodal checkpoint belongs to the language model."""
    return _TEXT.match(name) is not None


def text_settings(config: Mapping[str, Any], tensors: Collection[str] | None = None) -> dict[str, Any]:
    """config.json of the language model alone; ``tensors`` are the names in the checkpoint, where they are known.

    Whether it ties the output to the embedding is told by both parts of a multimodal config.json, which may contradict
    each other. As in transformers, a stored output counts. Raises ``CheckpointError`` when the language model's type is
    not named.
    """
    settings = dict(config["text_config"])
    settings.pop("architectures", None)  # the model type tells it; this may be the multimodal class
    if not isinstance(settings.get("model_type"), str):
        raise CheckpointError(
            "text_config in config.json names no model_type", hint="compare it with the one of the original repository"
        )
    settings |= {name: config[name] for name in QUANTIZATION if name in config}
    if tensors is not None and not any(_OUTPUT.match(name) for name in tensors):
        settings[_TIED] = config.get(_TIED, settings.get(_TIED, True))
    return settings

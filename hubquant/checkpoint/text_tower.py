"""The language model inside a multimodal checkpoint: its part of config.json, and the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from hubquant.checkpoint.storage import QUANTIZATION, TEXT_PARTS
from hubquant.errors import CheckpointError

# What the names of a multimodal checkpoint become: those that the same language model has alone.
TEXT_NAMES = (
    (r"^(model\.)?language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "model."),
    (r"^model\.(language_model|text_model)\.", "model."),
)
_TEXT = re.compile(
    "|".join(["lm_head\\.", "mtp\\.", r"model\.(embed_tokens|layers|norm)\.", *(pattern for pattern, _ in TEXT_NAMES)])
)
_OUTPUT = re.compile(r"^((model\.)?language_model\.)?lm_head\.weight$")
_TIED = "tie_word_embeddings"
_OF_QWEN: Mapping[str, str] = MappingProxyType({"qwen2_vl": "qwen2", "qwen2_5_vl": "qwen2", "qwen3_vl": "qwen3"})
"""Models whose language model has three positions for each token, which in text are one, and what it is then."""
_OF_IMAGES = ("mrope_section", "mrope_interleaved", "type")


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether config.json describes a language model beside other towers."""
    return config.get("model_type") in _OF_QWEN or any(isinstance(config.get(part), dict) for part in TEXT_PARTS)


def is_text(name: str) -> bool:
    """Whether a tensor of a multimodal checkpoint belongs to the language model."""
    return _TEXT.match(name) is not None


def text_settings(config: Mapping[str, Any], tensors: Collection[str] | None = None) -> dict[str, Any]:
    """config.json of the language model alone; ``tensors`` are the names in the checkpoint, where they are known.

    Whether it ties the output to the embedding is told by both parts of a multimodal config.json, which may contradict
    each other. As in transformers, a stored output counts. Raises ``CheckpointError`` when the language model's type is
    not named.
    """
    if config.get("model_type") in _OF_QWEN:
        return _without_images(config)
    part = next(part for part in TEXT_PARTS if isinstance(config.get(part), dict))
    settings = dict(config[part])
    settings.pop("architectures", None)  # the model type tells it; this may be the multimodal class
    if not isinstance(settings.get("model_type"), str):
        raise CheckpointError(
            f"{part} in config.json names no model_type", hint="compare it with the one of the original repository"
        )
    settings |= {name: config[name] for name in QUANTIZATION if name in config}
    if tensors is not None and not any(_OUTPUT.match(name) for name in tensors):
        settings[_TIED] = config.get(_TIED, settings.get(_TIED, True))
    return settings


def _without_images(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model of a Qwen that sees, from a flat config.json or a nested one, with its own defaults."""
    from transformers import CONFIG_MAPPING

    kind: Any = CONFIG_MAPPING[config["model_type"]]
    try:
        whole = kind.from_dict(dict(config))
    except Exception as error:  # transformers raises almost anything for values it did not expect
        raise CheckpointError(
            f"config.json is no {config['model_type']} configuration", why=" ".join(str(error).split())[:200]
        ) from error
    settings: dict[str, Any] = whole.get_text_config().to_dict()
    rope = {name: value for name, value in settings["rope_parameters"].items() if name not in _OF_IMAGES}
    if rope.get("rope_type") == "mrope":
        rope["rope_type"] = "default"
    tied = {_TIED: config.get(_TIED, settings.get(_TIED, False))}
    quantization = {name: config[name] for name in QUANTIZATION if name in config}
    given = {**config, **(config["text_config"] if isinstance(config.get("text_config"), dict) else {})}
    defaults = [name for name in settings if name.endswith("_token_id") and name not in given]
    unwanted = ("architectures", "rope_scaling", *defaults)
    settings = {name: value for name, value in settings.items() if name not in unwanted}
    return {**settings, "model_type": _OF_QWEN[config["model_type"]], "rope_parameters": rope} | tied | quantization

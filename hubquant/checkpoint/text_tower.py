"""The language model inside a multimodal checkpoint: its part of config.json, and the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from hubquant.checkpoint.headers import TensorInfo
from hubquant.checkpoint.modules import MODULE_SETTINGS
from hubquant.checkpoint.storage import QUANTIZATION, TEXT_PARTS
from hubquant.checkpoint.transformers_config import config_of
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
_SEEING: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "qwen2_vl": {"model_type": "qwen2"},
        "qwen2_5_vl": {"model_type": "qwen2"},
        "qwen3_vl": {"model_type": "qwen3"},
        "glm4v": {"model_type": "glm4", "attention_bias": True},
        "glm4v_moe": {"model_type": "glm4_moe"},
        "glm_ocr": {"model_type": "glm4", "attention_bias": False},
        "hunyuan_vl": {"model_type": "hunyuan_v1_dense"},
        "paddleocr_vl": {"model_type": "llama"},
        "qwen3_vl_moe": {"model_type": "qwen3_moe", "norm_topk_prob": True},
    }
)
"""Models whose language model has three positions for each token, which in text are one, and what it is then."""
_ALIKE: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "gemma4_unified_text": (
            "gemma4_text",
            {"hidden_size_per_layer_input": 0, "max_position_embeddings": 1 << 18, "sliding_window": 1024},
        ),
        "kimi_k2": ("deepseek_v3", {}),
    }
)
"""Language models that are another one, and the defaults that they have instead of its own."""
_NOT_ALONE: Mapping[str, str] = MappingProxyType({"step3p7": "step3p5"})
"""Models whose language model transformers has in them alone, known by their class, and its type."""
_TYPES = {"minimax_m3_vl": "minimax_m3_vl_text"}
"""Of language models that published multimodal ones do not name the type of."""
_ASSISTANTS = ("gemma4_assistant", "gemma4_unified_assistant")
"""Drafters, whose text_config tells of their own layers."""
_OF_THE_WHOLE = (*QUANTIZATION, *MODULE_SETTINGS)
_SECTIONS, _DEEPSTACK = "mrope_section", "deepstack_visual_indexes"
_OF_IMAGES = (_SECTIONS, "mrope_interleaved", "type")


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether config.json describes a language model beside other towers."""
    if config.get("model_type") in _ASSISTANTS:
        return False
    return config.get("model_type") in _SEEING or any(isinstance(config.get(part), dict) for part in TEXT_PARTS)


def is_text(name: str) -> bool:
    """Whether a tensor of a multimodal checkpoint belongs to the language model."""
    return _TEXT.match(name) is not None


def as_alone(settings: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors of a language model with ``settings`` as it has them alone: stacks of experts
    [n_expert, rows, columns], which Qwen3-VL was published with as [n_expert, columns, rows]."""
    width, inner = settings.get("hidden_size"), settings.get("moe_intermediate_size")
    stacks = {} if type(inner) is not int else {"gate_up_proj": (2 * inner, width), "down_proj": (width, inner)}

    def turned(info: TensorInfo, shape: tuple[Any, ...] | None) -> TensorInfo:
        if shape is None or info.shape[1:] != shape[::-1] or info.shape[1:] == shape:
            return info
        return replace(info, shape=(info.shape[0], *shape), transposed=True)

    return {name: turned(info, stacks.get(name.rpartition(".mlp.experts.")[2])) for name, info in tensors.items()}


def text_settings(config: Mapping[str, Any], tensors: Collection[str] | None = None) -> dict[str, Any]:
    """config.json of the language model alone; ``tensors`` are the names in the checkpoint, where they are known.

    Whether it ties the output to the embedding is told by both parts of a multimodal config.json, which may contradict
    each other. As in transformers, a stored output counts. Raises ``CheckpointError`` when the language model's type is
    not named.
    """
    if config.get("model_type") in _SEEING:
        return _without_images(config)
    part = next(part for part in TEXT_PARTS if isinstance(config.get(part), dict))
    settings = dict(config[part])
    settings.pop("architectures", None)  # the model type tells it; this may be the multimodal class
    if (kind := _NOT_ALONE.get(str(config.get("model_type")))) is not None:
        settings |= {"architectures": config.get("architectures"), "model_type": kind}
    if config.get("model_type") in _TYPES:
        settings.setdefault("model_type", _TYPES[config["model_type"]])
    if not isinstance(settings.get("model_type"), str):
        raise CheckpointError(
            f"{part} in config.json names no model_type", hint="compare it with the one of the original repository"
        )
    if settings["model_type"] in _ALIKE:
        kind, defaults = _ALIKE[settings["model_type"]]
        settings = {**defaults, **settings, "model_type": kind}
    settings |= {name: config[name] for name in _OF_THE_WHOLE if name in config}
    if tensors is not None and not any(_OUTPUT.match(name) for name in tensors):
        settings[_TIED] = config.get(_TIED, settings.get(_TIED, True))
    return settings


def _without_images(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model of one that sees, from a flat config.json or a nested one, with its own defaults."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

    try:
        whole = config_of(config["model_type"], config)
    except Exception as error:  # transformers raises almost anything for values it did not expect
        raise CheckpointError(
            f"config.json is no {config['model_type']} configuration", why=" ".join(str(error).split())[:200]
        ) from error
    settings: dict[str, Any] = whole.get_text_config().to_dict()
    rope = {name: value for name, value in settings["rope_parameters"].items() if name not in _OF_IMAGES}
    rope.setdefault("partial_rotary_factor", 1.0)
    if rope.get("rope_type") == "mrope":
        rope["rope_type"] = "default"
    tied = {_TIED: config.get(_TIED, settings.get(_TIED, False))}
    of_the_whole = {name: config[name] for name in _OF_THE_WHOLE if name in config}
    given = {**config, **(config["text_config"] if isinstance(config.get("text_config"), dict) else {})}
    defaults = [name for name in settings if name.endswith("_token_id") and name not in given]
    unwanted = ("architectures", "rope_scaling", *defaults)
    settings = {name: value for name, value in settings.items() if name not in unwanted}
    of_images = {
        "architectures": [CLASSES[config["model_type"]]],
        _SECTIONS: settings["rope_parameters"].get(_SECTIONS),
        _DEEPSTACK: getattr(whole.vision_config, _DEEPSTACK, None),
    }
    return {**settings, **_SEEING[config["model_type"]], "rope_parameters": rope, **of_images, **tied, **of_the_whole}

"""Tiny multimodal checkpoints: a language model beside a vision tower, as transformers saves them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hubquant.models.tiny import TOKENIZERS, llama3_tokenizer
from tests.support.conversion import Weights, edit_weights, uneven

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    # as Qwen and GLM call them
    "depth": 1,
    "num_heads": 2,
    "out_hidden_size": 256,
    "deepstack_visual_indexes": [0],
    "num_position_embeddings": 16,
    # of Llama 4
    "vision_output_dim": 48,
    "projector_input_dim": 48,
    "projector_output_dim": 48,
}
SOUND = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_mel_bins": 8,
    "max_source_positions": 8,
    # of Qwen2-Audio
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
}
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}


def auto_class(family: str) -> Any:
    """Transformers' class that builds and loads models of ``family``."""
    from transformers import AutoModelForMultimodalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if family == "audioflamingo3" else AutoModelForMultimodalLM


def build_multimodal(family: str, text: str, tower: str, folder: Path, **settings: Any) -> Path:
    """A tiny model that :func:`describe` describes."""
    import torch

    torch.manual_seed(0)
    auto = auto_class(family)
    auto.from_config(describe(family, text, tower, **settings)).save_pretrained(folder)
    _tokenizer(text).save_pretrained(folder)
    if family == "kimi_k25":  # transformers gives the language model the name that the encoder's layers had
        rename(folder, ("language_model.model.blocks.", "language_model.model.layers."))
    return edit_weights(folder, uneven)


def describe(
    family: str,
    text: str,
    tower: str,
    *,
    tied: bool = False,
    whole: Mapping[str, Any] = MappingProxyType({}),
    seeing: Mapping[str, Any] = MappingProxyType({}),
    **config: Any,
) -> PreTrainedConfig:
    """Of ``family`` with a language model of the type ``text`` and a ``tower`` of that type, for sound if it is an
    encoder.

    ``config`` is for the language model, where ``...`` removes a setting, ``seeing`` for the tower, and ``whole`` for
    both together.
    """
    from transformers import AutoConfig

    tokenizer = _tokenizer(text)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    settings = {
        "model_type": text,
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": tied,
        **ids,
        **SIZES,
        **deepcopy(config),
    }
    towers = (
        {"audio_config": {"model_type": tower, **SOUND, **seeing}}
        if tower.endswith("encoder")
        else {"vision_config": {"model_type": tower, **VISION, **seeing}}
    )
    described: PreTrainedConfig = AutoConfig.for_model(
        family,
        text_config={name: value for name, value in settings.items() if value is not ...},
        **towers,
        tie_word_embeddings=tied,
        image_token_index=len(tokenizer) - 1,
        **whole,
    )
    return described


def _tokenizer(text: str) -> Any:
    return TOKENIZERS.get(text, llama3_tokenizer)()


def rename(folder: Path, *prefixes: tuple[str, str]) -> Path:
    """Other names for tensors: the first prefix that fits is replaced."""

    def edit(weights: Weights) -> None:
        for name in list(weights):
            found = next((pair for pair in prefixes if name.startswith(pair[0])), ("", ""))
            weights[found[1] + name.removeprefix(found[0])] = weights.pop(name)

    return edit_weights(folder, edit)

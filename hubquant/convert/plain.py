"""What a checkpoint would be if it held nothing but a language model, in floats."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from hubquant.convert.checkpoint import Checkpoint
from hubquant.convert.float8 import with_scales
from hubquant.models.storage import read_storage
from hubquant.models.text_tower import QUANTIZATION, TEXT_NAMES, is_multimodal, is_text, text_settings


def plain_checkpoint(checkpoint: Checkpoint) -> tuple[Checkpoint, tuple[str, ...]]:
    """The language model alone, under the names that it has alone; and notes on what was left out.

    Matrices of FP8 have their scales with them. Raises ``NotSupportedYet`` for other quantized weights.
    """
    notes = checkpoint.notes
    storage = read_storage(checkpoint.config)
    if storage is not None:
        checkpoint = replace(checkpoint, tensors=MappingProxyType(with_scales(checkpoint.tensors, storage)))
    if is_multimodal(checkpoint.config):
        text = {name: info for name, info in checkpoint.tensors.items() if is_text(name)}
        settings = text_settings(checkpoint.config, text)
        if n_others := len(checkpoint.tensors) - len(text):
            notes += (f"only the language model is converted, not the {n_others} tensors for images or sound",)
        checkpoint = replace(checkpoint, config=MappingProxyType(settings), tensors=text).renamed(TEXT_NAMES)
    if storage is not None:
        settings = {name: value for name, value in checkpoint.config.items() if name not in QUANTIZATION}
        checkpoint = replace(checkpoint, config=MappingProxyType(settings))
    return checkpoint, notes

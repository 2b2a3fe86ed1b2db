"""What a checkpoint would be if it held nothing but a language model."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from hubquant.convert.checkpoint import Checkpoint
from hubquant.models.text_tower import TEXT_NAMES, is_multimodal, is_text, text_settings


def plain_checkpoint(checkpoint: Checkpoint) -> tuple[Checkpoint, tuple[str, ...]]:
    """The language model alone, under the names that it has alone; and notes on what was left out."""
    if not is_multimodal(checkpoint.config):
        return checkpoint, ()
    text = {name: info for name, info in checkpoint.tensors.items() if is_text(name)}
    settings = text_settings(checkpoint.config, text)
    n_left_out = len(checkpoint.tensors) - len(text)
    note = f"only the language model is converted, not the {n_left_out} tensors of projectors for images or sound"
    plain = replace(checkpoint, config=MappingProxyType(settings), tensors=text).renamed(TEXT_NAMES)
    return plain, (note,) if n_left_out else ()

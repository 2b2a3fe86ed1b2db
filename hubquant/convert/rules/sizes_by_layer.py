"""Decoders whose layers have each their own numbers of heads and width of the feed-forward network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.by_layer import MOST_LAYERS, by_layer, one_or_each
from hubquant.convert.rules.rule import Heads, Rule, Settings, integer, out_of_range
from hubquant.gguf_file.metadata import Metadata

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Sizes = tuple[int, int, int]
"""Heads, key-value heads and width of a layer."""
_SETTING = "heads_and_widths"
_OF_ALL = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
_KEYS = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")


def sizes_of(config: PreTrainedConfig) -> list[Sizes]:
    same = tuple(getattr(config, name) for name in _OF_ALL)
    found: list[Sizes] = getattr(config, _SETTING, config.num_hidden_layers * [same])
    return found


def with_sizes(settings: Settings, layers: Sequence[Sizes]) -> dict[str, Any]:
    """``settings`` with those of each layer, and the largest where the config class has one for all."""
    most = [max(sizes) or None for sizes in zip(*layers, strict=True)] or len(_OF_ALL) * [None]
    return {**settings, _SETTING: list(layers), **dict(zip(_OF_ALL, most, strict=True))}


def dimensions_by_layer(sizes: Dimensions, config: PreTrainedConfig) -> Dimensions:
    """``sizes`` with those of all layers by their value, such as n_ff_512; llama-quantize counts the first one's
    heads."""
    layers, size, result = sizes_of(config), sizes["n_embd_head"], dict(sizes)
    for heads, kv_heads, width in layers:
        result |= {f"n_head_{heads}": heads, f"n_head_{kv_heads}": kv_heads, f"n_ff_{width}": width}
        result |= {f"n_embd_q_{heads}": heads * size, f"n_embd_kv_{kv_heads}": kv_heads * size}
        result[f"n_qkv_{heads}_{kv_heads}"] = (heads + 2 * kv_heads) * size
    return {**result, "n_head": layers[0][0], "n_head_kv": layers[0][1]}


class SizesByLayer(Rule):
    """A count that all layers share is one number in the file."""

    reads = (_SETTING, *Heads.reads, "intermediate_size")

    def check(self, settings: Settings) -> None:
        Heads().check(settings)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        layers = sizes_of(config)
        if len(layers) != config.num_hidden_layers:
            raise out_of_range("the list of layers", layers, f"one of {config.num_hidden_layers}")
        for heads, kv_heads, _ in layers:
            if kv_heads and heads % kv_heads:
                raise out_of_range("the number of key-value heads", kv_heads, f"a divisor of the {heads} heads")
        counts = {key: one_or_each(values) for key, values in zip(_KEYS, zip(*layers, strict=True), strict=True)}
        size = Heads().metadata(config)
        return {**{key: value for key, value in size.items() if key not in _KEYS}, **counts}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = min(integer(metadata, "block_count") or 0, MOST_LAYERS)
        rest = {key: value for key, value in metadata.items() if key not in _KEYS}
        layers = [*zip(*(by_layer(metadata, key, n_layer) for key in _KEYS), strict=True)]
        return with_sizes(Heads().settings(rest), layers)

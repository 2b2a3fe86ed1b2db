"""Rules of decoders whose layers are of several kinds: attention only in some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rule import Heads, Rule, Settings, check_list, integer, key_value_heads, out_of_range
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, i32s

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FULL, LINEAR = "full_attention", "linear_attention"
_KV = "attention.head_count_kv"


def attends(config: PreTrainedConfig, layer: int) -> bool:
    """Whether the layer has attention."""
    kinds = getattr(config, "layer_types", None)
    return bool(kinds and kinds[layer] == FULL)


def first_layer(dimensions: Dimensions, config: PreTrainedConfig) -> Dimensions:
    """llama-quantize counts the key-value heads of the first layer, which may have none."""
    return {**dimensions, "n_head_kv": dimensions["n_head_kv"] if attends(config, 0) else 0}


def periodic(layers: Sequence[bool]) -> tuple[int, int]:
    """(period, offset): the marked layers are those with ``layer % period == offset``.

    Raises NotSupportedYet when they lie otherwise.
    """
    marked = [layer for layer, here in enumerate(layers) if here]
    if not marked:
        return len(layers) + 1, len(layers)
    period = marked[1] - marked[0] if len(marked) > 1 else max(len(layers), 1)
    if marked != list(range(marked[0], len(layers), period)) or marked[0] >= period:
        raise NotSupportedYet("layers of one kind at uneven distances")
    return period, marked[0]


@dataclass(frozen=True)
class HeadsByLayer(Rule):
    """Attention heads, with 0 key-value heads in the layers that have no attention.

    The heads together are as wide as the model. ``layer_settings`` are the settings that put attention in the layers
    marked.
    """

    layer_settings: Callable[[Sequence[bool]], dict[str, Any]]
    reads = (*Heads.reads, "layer_types")

    def check(self, settings: Settings) -> None:
        Heads().check(settings)
        check_list(settings, "layer_types")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        kv_heads = key_value_heads(config)
        kinds = getattr(config, "layer_types", None)
        if len(kinds or ()) != config.num_hidden_layers:
            raise out_of_range("layer_types", kinds, f"{config.num_hidden_layers} kinds of layers")
        by_layer = [kv_heads * attends(config, layer) for layer in range(config.num_hidden_layers)]
        return {**Heads(whole=True).metadata(config), _KV: i32s(by_layer)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = min(integer(metadata, "block_count") or 0, 10_000)
        found = metadata[_KV].value if _KV in metadata else 0
        by_layer = found if isinstance(found, tuple) else (found,) * n_layer
        counts = {count for count in by_layer if count != 0}
        if len(by_layer) != n_layer or len(counts) > 1 or not all(type(count) is int for count in counts):
            raise out_of_range(_KV, found, f"one number or 0 for each of {n_layer} layers")
        rest = {key: value for key, value in metadata.items() if key != _KV}
        settings = Heads().settings(rest)
        if counts:
            settings["num_key_value_heads"] = counts.pop()
        return settings | self.layer_settings([count != 0 for count in by_layer])

"""DeciLM: Llamas in which a search gave each layer its own number of key-value heads (DeciLM-7B), and its own width, a
matrix in the place of attention, or no attention at all (Nemotron-NAS: Nemotron 51B, Super 49B, Ultra 253B)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.architectures import decoder
from hubquant.convert.architectures.llama import LLAMA
from hubquant.convert.head_order import interleave_halves
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import DYNAMIC, Rope
from hubquant.convert.rules.rule import Fixed, Heads, Settings, is_number, out_of_range
from hubquant.convert.rules.sizes_by_layer import Sizes, SizesByLayer, dimensions_by_layer, sizes_of, with_sizes
from hubquant.convert.tables import Row, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_BLOCKS, _KV_HEADS = "block_configs", "num_key_value_heads_per_layer"
_SIZES = ("num_attention_heads", "hidden_size", "intermediate_size")
_MULTIPLE = 256


class _Layers(SizesByLayer):
    """Without key-value heads a matrix stands for attention, without any heads nothing does."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        layers = sizes_of(config)
        for layer, (heads, _, width) in enumerate(layers):
            if heads and not width:
                raise _other(layer, "attention and no feed-forward network", "leaves all of such a layer out")
        if not layers[0][0]:
            raise _other(0, "no attention", "takes the size of heads from this layer")
        if not layers[-1][2]:
            raise _other(len(layers) - 1, "no feed-forward network", "chooses the tokens to predict in the last one")
        return super().metadata(config)


def _other(layer: int, what: str, llama_cpp: str) -> NotSupportedYet:
    return NotSupportedYet(f"layer {layer} with {what}", why=f"llama.cpp {llama_cpp}")


def _translate(settings: Settings) -> Settings:
    rest = {name: value for name, value in settings.items() if name not in (_BLOCKS, _KV_HEADS)}
    blocks, counts = settings.get(_BLOCKS), settings.get(_KV_HEADS)
    sizes: list[Any] = [settings.get(name) for name in _SIZES]
    heads, hidden_size, width = sizes
    if blocks is not None:
        return with_sizes(rest, [*_searched(blocks, heads, hidden_size)])
    if not (isinstance(counts, list) and all(type(size) is int and size > 0 for size in (heads, width, *counts))):
        raise out_of_range(_KV_HEADS, counts, f"a list of whole numbers above 0, where there is no {_BLOCKS}")
    return with_sizes(rest, [(heads, count, width) for count in counts])


def _searched(blocks: Any, heads: Any, hidden_size: Any) -> Iterator[Sizes]:
    """Layers of Nemotron-NAS, which tells a width by what it is to that of the model."""
    if not (isinstance(blocks, list) and all(isinstance(block, dict) for block in blocks)):
        raise out_of_range(_BLOCKS, blocks, "a list of tables")
    if not (type(heads) is int and type(hidden_size) is int):
        raise out_of_range("num_attention_heads and hidden_size", (heads, hidden_size), "whole numbers")
    for layer, block in enumerate(blocks):
        attention, network = (_part(layer, block, name) for name in ("attention", "ffn"))
        group, factor = attention.get("n_heads_in_group"), network.get("ffn_mult")
        if not (group is None or (type(group) is int and 0 < group <= heads)):
            raise out_of_range("n_heads_in_group", group, f"a whole number from 1 to {heads}")
        if not (factor is None or (is_number(factor) and 0 < factor < 1e6)):
            raise out_of_range("ffn_mult", factor, "a number above 0")
        if network.get("replace_with_linear"):
            raise _other(layer, "a matrix in the place of the feed-forward network", "has none there")
        width = int(2 * (factor or 0) * hidden_size / 3)
        seen = heads if group or attention.get("replace_with_linear") else 0
        yield seen, heads // group if group else 0, -(-width // _MULTIPLE) * _MULTIPLE


_READ = ("n_heads_in_group", "ffn_mult", "replace_with_linear", "no_op", "sparsify")  # sparsified weights are zeros


def _part(layer: int, block: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = block.get(name)
    if not isinstance(part, dict):
        raise out_of_range(_BLOCKS, block, f'tables with "{name}"')
    if other := [key for key, value in part.items() if value and key not in _READ]:
        raise _other(layer, f"{other[0]} {str(part[other[0]])[:40]!r}", "computes none")
    return part


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return dimensions_by_layer(decoder.dimensions(config), config)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    heads, kv_heads, width = sizes_of(config)[layer]
    keys, wide = f"n_embd_kv_{kv_heads}", f"n_ff_{width}"
    attention: tuple[Row, ...] = (
        linear("self_attn.q_proj", "n_embd_q", "n_embd", operations=(interleave_halves("n_head"),)),
        linear("self_attn.k_proj", keys, "n_embd", operations=(interleave_halves(f"n_head_{kv_heads}"),)),
        linear("self_attn.v_proj", keys, "n_embd"),
        linear("self_attn.o_proj", "n_embd", "n_embd_q"),
    )
    network: tuple[Row, ...] = (
        norm("post_attention_layernorm"),
        linear("mlp.gate_proj", wide, "n_embd"),
        linear("mlp.up_proj", wide, "n_embd"),
        linear("mlp.down_proj", "n_embd", wide),
    )
    matrix = (linear("self_attn.linear_attn", "n_embd", "n_embd"),)
    seen = (norm("input_layernorm"), *(attention if kv_heads else matrix)) if heads else ()
    return (*seen, *(network if width else ()))


DECI = replace(
    LLAMA,
    name="deci",
    classes={"DeciLMForCausalLM": "llama"},
    rules=(
        *(rule for rule in decoder.RULES if rule not in (decoder.FEED_FORWARD, Heads())),
        _Layers(),
        Rope(("default", DYNAMIC, "llama3")),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
    ),
    dimensions=_dimensions,
    block=_block,
    translate=_translate,
    translated=(_BLOCKS, _KV_HEADS),
    own_code=True,
)

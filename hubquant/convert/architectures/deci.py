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
from hubquant.convert.rules.by_layer import MOST_LAYERS, by_layer, one_or_each
from hubquant.convert.rules.rope import DYNAMIC, Rope
from hubquant.convert.rules.rule import Fixed, Heads, Rule, Settings, integer, is_number, out_of_range
from hubquant.convert.tables import Row, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LAYERS = "heads_and_widths"  # (heads, key-value heads, width) of each layer; Llama has one for all
_BLOCKS, _KV_HEADS = "block_configs", "num_key_value_heads_per_layer"
_SIZES = ("num_attention_heads", "hidden_size", "intermediate_size")
_MULTIPLE = 256
_KEYS = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")


class _Layers(Rule):
    """Without key-value heads a matrix stands for attention, without any heads nothing does."""

    reads = (_LAYERS, *Heads.reads, "intermediate_size")

    def check(self, settings: Settings) -> None:
        Heads().check(settings)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        layers = _layers(config)
        if len(layers) != config.num_hidden_layers:
            raise out_of_range(_BLOCKS, layers, f"a list of {config.num_hidden_layers} layers")
        for layer, (heads, kv_heads, width) in enumerate(layers):
            if kv_heads and heads % kv_heads:
                raise out_of_range(_BLOCKS, kv_heads, f"with divisors of the {heads} attention heads")
            if heads and not width:
                raise _other(layer, "attention and no feed-forward network", "leaves all of such a layer out")
        if not layers[0][0]:
            raise _other(0, "no attention", "takes the size of heads from this layer")
        if not layers[-1][2]:
            raise _other(len(layers) - 1, "no feed-forward network", "chooses the tokens to predict in the last one")
        counts = {key: one_or_each(values) for key, values in zip(_KEYS, zip(*layers, strict=True), strict=True)}
        return {**Heads().metadata(config), **counts}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = min(integer(metadata, "block_count") or 0, MOST_LAYERS)
        layers = [*zip(*(by_layer(metadata, key, n_layer) for key in _KEYS), strict=True)]
        rest = {key: value for key, value in metadata.items() if key not in _KEYS}
        return {**Heads().settings(rest), **_of_all(layers)}


def _layers(config: PreTrainedConfig) -> list[tuple[int, int, int]]:
    same = (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size)
    found: list[tuple[int, int, int]] = getattr(config, _LAYERS, config.num_hidden_layers * [same])
    return found


def _other(layer: int, what: str, llama_cpp: str) -> NotSupportedYet:
    return NotSupportedYet(f"layer {layer} with {what}", why=f"llama.cpp {llama_cpp}")


def _of_all(layers: list[tuple[int, int, int]]) -> dict[str, Any]:
    """The layers, and what Llama's config has for all of them."""
    most = [max(sizes) or None for sizes in zip(*layers, strict=True)] or 3 * [None]
    return {
        _LAYERS: layers,
        **dict(zip(("num_attention_heads", "num_key_value_heads", "intermediate_size"), most, strict=True)),
    }


def _translate(settings: Settings) -> Settings:
    rest = {name: value for name, value in settings.items() if name not in (_BLOCKS, _KV_HEADS)}
    blocks, counts = settings.get(_BLOCKS), settings.get(_KV_HEADS)
    sizes: list[Any] = [settings.get(name) for name in _SIZES]
    heads, hidden_size, width = sizes
    if blocks is not None:
        return {**rest, **_of_all([*_searched(blocks, heads, hidden_size)])}
    if not (isinstance(counts, list) and all(type(size) is int and size > 0 for size in (heads, width, *counts))):
        raise out_of_range(_KV_HEADS, counts, f"a list of whole numbers above 0, where there is no {_BLOCKS}")
    return {**rest, **_of_all([(heads, count, width) for count in counts])}


def _searched(blocks: Any, heads: Any, hidden_size: Any) -> Iterator[tuple[int, int, int]]:
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
    layers, sizes = _layers(config), dict(decoder.dimensions(config))
    for _, kv_heads, width in layers:
        sizes |= {f"n_head_kv_{kv_heads}": kv_heads, f"n_ff_{width}": width}
        sizes[f"n_embd_kv_{kv_heads}"] = kv_heads * sizes["n_embd_head"]
    return {**sizes, "n_head_kv": layers[0][1]}  # as llama-quantize counts them


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    heads, kv_heads, width = _layers(config)[layer]
    keys, wide = f"n_embd_kv_{kv_heads}", f"n_ff_{width}"
    attention: tuple[Row, ...] = (
        linear("self_attn.q_proj", "n_embd_q", "n_embd", operations=(interleave_halves("n_head"),)),
        linear("self_attn.k_proj", keys, "n_embd", operations=(interleave_halves(f"n_head_kv_{kv_heads}"),)),
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

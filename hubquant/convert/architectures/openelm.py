"""OpenELM, whose code is not part of transformers: Qwen3 with layers that grow in heads and width."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hubquant.convert.architectures import decoder
from hubquant.convert.architectures.qwen3 import QWEN3
from hubquant.convert.operations import Dimensions, split
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Fixed, Heads, Settings, is_number, out_of_range
from hubquant.convert.rules.sizes_by_layer import SizesByLayer, dimensions_by_layer, sizes_of, with_sizes
from hubquant.convert.rules.windows import QWEN_WINDOW
from hubquant.convert.tables import Embeddings, Row, Tensors, inputs_of, linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_NAMES = {
    "activation_fn_name": "hidden_act",
    "max_context_length": "max_position_embeddings",
    "model_dim": "hidden_size",
    "num_transformer_layers": "num_hidden_layers",
    "share_input_output_layers": "tie_word_embeddings",
}
_LISTS = ("num_query_heads", "num_kv_heads", "ffn_multipliers")
_EPSILON = 1e-6  # of its code


def _translate(settings: Settings) -> Settings:
    named = {_NAMES.get(name, name): value for name, value in settings.items() if name not in _LISTS}
    for name in _LISTS:
        value = settings.get(name)
        if not (isinstance(value, list) and value and all(is_number(x) and 0 < x < 1 << 16 for x in value)):
            raise out_of_range(name, value, "a list of numbers above 0")
    numbers = [settings.get(name) for name in ("model_dim", "ffn_dim_divisor")]
    if not all(type(number) is int and number > 0 for number in numbers):
        raise out_of_range("model_dim and ffn_dim_divisor", numbers, "whole numbers above 0")
    heads, kv_heads, factors = (settings[name] for name in _LISTS)
    widths = [_width(factor * settings["model_dim"], settings["ffn_dim_divisor"]) for factor in factors]
    if not len(heads) == len(kv_heads) == len(widths):
        raise out_of_range(_LISTS[1], kv_heads, f"as long as {_LISTS[0]} and {_LISTS[2]}")
    rope = {"rope_type": "default", "rope_theta": settings.get("rope_freq_constant", 10000)}
    layers = [(int(a), int(b), width) for a, b, width in zip(heads, kv_heads, widths, strict=True)]
    return with_sizes({"rms_norm_eps": _EPSILON, "rope_parameters": rope, **named}, layers)


def _width(wanted: float, divisor: int) -> int:
    """The multiple of ``divisor`` that is nearest, and no less than nine tenths."""
    found = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return found + divisor if found < 0.9 * wanted else found


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return dimensions_by_layer(decoder.dimensions(config), config)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    heads, kv_heads, width = sizes_of(config)[layer]
    wide, both = f"n_ff_{width}", inputs_of("ffn.proj_1")
    gate_and_up = {f"ffn_{part}.weight": (wide, "n_embd") for part in ("gate", "up")}
    return (
        norm("attn_norm"),
        linear("attn.qkv_proj", f"n_qkv_{heads}_{kv_heads}", "n_embd"),
        norm("attn.q_norm", "n_embd_head"),
        norm("attn.k_norm", "n_embd_head"),
        linear("attn.out_proj", "n_embd", f"n_embd_q_{heads}"),
        norm("ffn_norm"),
        Tensors(("ffn.proj_1.weight",), gate_and_up, (split(wide, wide),), taps=(both, both)),
        linear("ffn.proj_2", "n_embd", wide),
    )


OPENELM = replace(
    QWEN3,
    name="openelm",
    classes={"OpenELMForCausalLM": "qwen3"},
    rules=(
        *(rule for rule in decoder.RULES if rule not in (decoder.FEED_FORWARD, Heads())),
        SizesByLayer(),
        Rope(("default",)),
        QWEN_WINDOW,
        Fixed("attention_bias", False),
        Fixed("tie_word_embeddings", True),
        Fixed("ffn_with_glu", True),
        Fixed("normalization_layer_name", "rms_norm"),
        Fixed("normalize_qk_projections", True),
    ),
    dimensions=_dimensions,
    outside=(Embeddings("transformer.token_embeddings"), norm("transformer.norm")),
    block=_block,
    blocks="transformer.layers",
    translate=_translate,
    translated=(
        *(*_NAMES, *_LISTS, "ffn_dim_divisor", "rope_freq_constant"),
        *("num_gqa_groups", "qkv_multipliers", "rope_max_length"),  # what the lists were made of, and a table's length
    ),
    own_code=True,
)

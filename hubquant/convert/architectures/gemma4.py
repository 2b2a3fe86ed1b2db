"""Gemma 4 (text): layers with a window beside layers that see the whole text with wider heads and rotate part of them.

The small models have embeddings of their own for every layer, and last layers that attend to the keys and values of
layers before them and may have an MLP of twice the width. Of the large ones, one takes the keys for values where it
sees the whole text, and one has experts beside the MLP.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.architectures.gemma3n import TableOfLayers, pad_to_vocabulary
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.by_layer import MOST_LAYERS, by_layer
from hubquant.convert.rules.heads_by_kind import (
    HeadsByKind,
    RopeByKind,
    frequency_divisors,
    of_kind,
    rotated_share,
    sees_all,
)
from hubquant.convert.rules.rope import FREQS
from hubquant.convert.rules.rule import (
    GELU,
    Count,
    Epsilon,
    Fixed,
    Number,
    Rule,
    Settings,
    check_count,
    integer,
    number,
    out_of_range,
)
from hubquant.convert.rules.windows import FULL, SLIDING
from hubquant.convert.tables import Bundle, Embeddings, Module, Place, Row, Tensors, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, f32, i32s, u32
from hubquant.models.taps.tap import Tap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig


def _first_shared(config: PreTrainedConfig) -> int:
    """The first of the layers that use the keys and values of others."""
    return int(config.num_hidden_layers - config.num_kv_shared_layers)


@dataclass(frozen=True)
class _Width(Rule):
    """The width of the MLP, which layers without keys of their own may have twice."""

    key = "feed_forward_length"
    reads = ("intermediate_size", "num_kv_shared_layers", "use_double_wide_mlp")

    def check(self, settings: Settings) -> None:
        check_count(settings, "intermediate_size", 1 << 24)
        check_count(settings, "num_kv_shared_layers", MOST_LAYERS, least=0)
        wide = settings.get("use_double_wide_mlp")
        if wide is not None and not isinstance(wide, bool):
            raise out_of_range("use_double_wide_mlp", wide, "true or false")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        n_layer, shared, width = config.num_hidden_layers, config.num_kv_shared_layers, config.intermediate_size
        if shared >= n_layer:
            raise out_of_range("num_kv_shared_layers", shared, f"fewer than the {n_layer} layers")
        first = _first_shared(config)
        if shared and list(config.layer_types[max(0, first - 2) : first]) != [SLIDING, FULL]:
            raise NotSupportedYet(
                "layers that share these keys and values",
                why="llama.cpp takes those of the last two layers that have some: one with a window, then one without",
            )
        keys = {"attention.shared_kv_layers": u32(shared)}
        if not (config.use_double_wide_mlp and shared):
            return keys | {self.key: u32(width)}
        return keys | {self.key: i32s(width if layer < first else 2 * width for layer in range(n_layer))}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        widths = by_layer(metadata, self.key, min(integer(metadata, "block_count") or 0, MOST_LAYERS))
        return {
            "intermediate_size": widths[0] if widths else None,
            "use_double_wide_mlp": len({*widths}) > 1,
            "num_kv_shared_layers": integer(metadata, "attention.shared_kv_layers") or 0,
        }


@dataclass(frozen=True)
class _Experts(Rule):
    """Experts beside the MLP, in models that have them."""

    counts = (
        *moe.counts("num_experts", "top_k_experts"),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
    )
    reads = ("enable_moe_block", *(each.setting for each in counts))

    def check(self, settings: Settings) -> None:
        for each in self.counts:
            each.check(settings)
            if settings.get("enable_moe_block") and settings.get(each.setting) is None:
                raise out_of_range(each.setting, None, "given where enable_moe_block is true")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        counts = self.counts if config.enable_moe_block else ()
        return {key: value for each in counts for key, value in each.metadata(config).items()}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        found = {name: value for each in self.counts for name, value in each.settings(metadata).items()}
        return {**found, "enable_moe_block": "expert_count" in metadata}


@dataclass(frozen=True)
class _SoftCap(Number):
    """llama.cpp takes 30 where the key is missing, and 0 for none."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {self.key: f32(getattr(config, self.setting) or 0.0)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {self.setting: number(metadata, self.key) or None}


def _told_by_tensors(tensors: Mapping[str, torch.Tensor], settings: Settings) -> Mapping[str, Any]:
    parameters = {kind: {**each} for kind, each in settings["rope_parameters"].items()}
    if FREQS in tensors:
        parameters[FULL]["partial_rotary_factor"] = rotated_share(tensors[FREQS])
    layers = [layer for layer, kind in enumerate(settings["layer_types"]) if kind == FULL]
    own = [layer for layer in layers if f"blk.{layer}.attn_k.weight" in tensors]
    keys_are_values = bool(own) and f"blk.{own[0]}.attn_v.weight" not in tensors
    return {"rope_parameters": parameters, "attention_k_eq_v": keys_are_values}


def _unused(config: PreTrainedConfig) -> Collection[str]:
    """Keys and values of layers that use others', which checkpoints store all the same."""
    parts = ("k_proj.weight", "v_proj.weight", "k_norm.weight")
    layers = range(_first_shared(config), config.num_hidden_layers)
    return {f"model.layers.{layer}.self_attn.{part}" for layer in layers for part in parts}


@dataclass(frozen=True)
class _InSmallModels:
    """A row of the models that have embeddings of their own for every layer."""

    row: Row

    def bundles(self, place: Place) -> Iterator[Bundle]:
        return self.row.bundles(place) if place.config.hidden_size_per_layer_input else iter(())

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:
        return self.row.observed(place) if place.config.hidden_size_per_layer_input else iter(())

    def bias_settings(self, place: Place) -> Iterator[tuple[str, str]]:
        return self.row.bias_settings(place)


_OUTSIDE: tuple[Row, ...] = (
    Embeddings(),
    norm("model.norm"),
    _InSmallModels(
        Module("model.embed_tokens_per_layer", ("n_vocab", "n_per_layer_all"), operations=(pad_to_vocabulary,))
    ),
    _InSmallModels(Module("model.per_layer_model_projection", ("n_per_layer_all", "n_embd"))),  # never quantized
    _InSmallModels(norm("model.per_layer_projection_norm", "n_per_layer")),
)
_PER_LAYER: tuple[Row, ...] = (
    linear("per_layer_input_gate", "n_per_layer", "n_embd"),
    linear("per_layer_projection", "n_embd", "n_per_layer"),
    norm("post_per_layer_input_norm"),
)
_EXPERTS: tuple[Row, ...] = (
    linear("router.proj", "n_expert", "n_embd"),
    Tensors(("router.scale",), {"ffn_gate_inp.scale": ("n_embd",)}),
    Tensors(("router.per_expert_scale",), {"ffn_down_exps.scale": ("n_expert",)}),
    Tensors(
        ("experts.gate_up_proj",),
        {"ffn_gate_up_exps.weight": ("n_expert", "n_gate_up_exp", "n_embd")},
        taps=(moe.given_to("experts"),),
    ),
    Tensors(
        ("experts.down_proj",),
        {"ffn_down_exps.weight": ("n_expert", "n_embd", "n_ff_exp")},
        taps=(moe.computed_in("experts"),),
    ),
    norm("pre_feedforward_layernorm_2"),
    norm("post_feedforward_layernorm_1"),
    norm("post_feedforward_layernorm_2"),
)


def block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    whole, shared = sees_all(config, layer), layer >= _first_shared(config)
    kind = "_full" if whole else ""
    keys: tuple[Row, ...] = (
        linear("self_attn.k_proj", f"n_embd_kv{kind}", "n_embd"),
        norm("self_attn.k_norm", f"n_embd_head{kind}"),
    )
    values: tuple[Row, ...] = (linear("self_attn.v_proj", f"n_embd_kv{kind}", "n_embd"),)
    width = "n_ff_wide" if shared and config.use_double_wide_mlp else "n_ff"
    gate, up, down = (f"mlp.{name}" for name in decoder.GATED)
    return (
        norm("input_layernorm"),
        linear("self_attn.q_proj", f"n_embd_q{kind}", "n_embd"),
        *(() if shared else keys),
        *(() if shared or (whole and config.attention_k_eq_v) else values),
        linear("self_attn.o_proj", "n_embd", f"n_embd_q{kind}"),
        norm("self_attn.q_norm", f"n_embd_head{kind}"),
        norm("post_attention_layernorm"),
        norm("pre_feedforward_layernorm"),
        linear(gate, width, "n_embd"),
        linear(up, width, "n_embd"),
        linear(down, "n_embd", width),
        norm("post_feedforward_layernorm"),
        *(_EXPERTS if config.enable_moe_block else ()),
        *(_PER_LAYER if config.hidden_size_per_layer_input else ()),
        Tensors(("layer_scalar",), {"layer_output_scale.weight": ("one",)}),
    )


def dimensions(config: PreTrainedConfig) -> Dimensions:
    heads = config.num_attention_heads
    (size, kv_heads), (wide, wide_kv_heads) = of_kind(config, SLIDING), of_kind(config, FULL)
    experts = config.num_experts if config.enable_moe_block else 0
    n_ff_exp = config.moe_intermediate_size if experts else 0
    per_layer = config.hidden_size_per_layer_input or 0
    return {
        "n_vocab": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        "n_ff": config.intermediate_size,
        "n_head": heads,
        "n_head_kv": kv_heads,
        "n_expert": experts,
        "n_ff_exp": n_ff_exp,
        "one": 1,
        "n_embd_head": size,
        "n_embd_q": heads * size,
        "n_embd_kv": kv_heads * size,
        "n_embd_head_full": wide,
        "n_embd_q_full": heads * wide,
        "n_embd_kv_full": wide_kv_heads * wide,
        "n_ff_wide": 2 * config.intermediate_size,
        "n_gate_up_exp": 2 * n_ff_exp,
        "n_vocab_per_layer": config.vocab_size_per_layer_input,
        "n_per_layer": per_layer,
        "n_per_layer_all": per_layer * config.num_hidden_layers,
    }


_WIDTH = Count("feed_forward_length", "intermediate_size")
_RULES: tuple[Rule, ...] = (
    *(rule for rule in decoder.SIZES if rule != _WIDTH),
    _Width(),
    HeadsByKind(),
    RopeByKind(),
    Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    Fixed("attention_bias", False),
    Fixed("tie_word_embeddings", True),
    Fixed("hidden_activation", "gelu_pytorch_tanh", same=GELU),
    Fixed("use_bidirectional_attention", None, same=("vision",)),  # for images only
    _SoftCap("final_logit_softcapping", "final_logit_softcapping"),
    Count("embedding_length_per_layer_input", "hidden_size_per_layer_input", least=0),
    TableOfLayers(),
    _Experts(),
)

GEMMA4 = Architecture(
    name="gemma4",
    classes={"Gemma4ForCausalLM": "gemma4_text"},
    restored_as="gemma4_text",
    rules=_RULES,
    dimensions=dimensions,
    outside=_OUTSIDE,
    block=block,
    constants=frequency_divisors,
    told_by_tensors=_told_by_tensors,
    unused=_unused,
    layout=("attention_k_eq_v",),
)

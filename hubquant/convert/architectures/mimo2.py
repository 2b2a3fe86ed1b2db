"""MiMo-V2: windows with sinks and twice the key-value heads, values narrower than keys and scaled, DeepSeek V3's
experts without those that every token passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hubquant.convert.ahead import JOINED, TABLES, Ahead
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.operations import Dimensions, Inverse, split
from hubquant.convert.rules.by_layer import MOST_LAYERS, PATTERN, PartialRopeByKind, WindowsByLayer, by_layer
from hubquant.convert.rules.rule import (
    SILU,
    Count,
    Epsilon,
    Fixed,
    Heads,
    Number,
    Rule,
    Settings,
    check_count,
    integer,
    out_of_range,
)
from hubquant.convert.rules.windows import FULL, SLIDING
from hubquant.convert.tables import Row, Tensors, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, i32s, u32

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_HEADS_KV = "attention.head_count_kv"
_SHARE = 0.334  # of a head that is rotated, where config.json does not tell


class _Heads(Rule):
    """Layers with a window have twice the key-value heads of the others; values have a size of their own."""

    reads = (*Heads.reads, "v_head_dim")

    def check(self, settings: Settings) -> None:
        Heads().check(settings)
        check_count(settings, "v_head_dim", 1 << 16)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        if heads % (2 * kv_heads):
            raise out_of_range("num_key_value_heads", kv_heads, f"a divisor of half the {heads} attention heads")
        return {
            **Heads().metadata(config),
            _HEADS_KV: i32s([kv_heads * (1 + _in_window(config, i)) for i in range(config.num_hidden_layers)]),
            "attention.value_length": u32(config.v_head_dim),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = min(integer(metadata, "block_count") or 0, MOST_LAYERS)
        counts, windows = by_layer(metadata, _HEADS_KV, n_layer), by_layer(metadata, PATTERN, n_layer)
        found = {count // (1 + bool(here)) for count, here in zip(counts, windows, strict=True)}
        if len(found) > 1:
            raise NotSupportedYet("key-value heads that are not twice as many in layers with a window")
        return {
            **Heads().settings({key: value for key, value in metadata.items() if key != _HEADS_KV}),
            **({"num_key_value_heads": found.pop()} if found else {}),
            "v_head_dim": integer(metadata, "attention.value_length"),
        }


class _Rope(PartialRopeByKind):
    """The same share in both kinds of layers."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        keys = {**super().metadata(config)}
        window, whole = keys.pop("rope.dimension_count_swa", None), keys["rope.dimension_count"]
        if window not in (None, whole):
            raise NotSupportedYet(
                "layers with a window that rotate another share of a head", why="llama.cpp has one share here"
            )
        return keys


_COMPUTED: dict[str, Callable[[Any], Any]] = {
    "hybrid_layer_pattern": lambda c: [int(_in_window(c, layer)) for layer in range(c.num_hidden_layers)],
    "moe_layer_freq": lambda c: [int(not moe.is_dense(c, layer)) for layer in range(c.num_hidden_layers)],
    "layernorm_epsilon": lambda c: c.rms_norm_eps,
    "rope_theta": lambda c: c.rope_parameters[FULL]["rope_theta"],
    "swa_rope_theta": lambda c: c.rope_parameters.get(SLIDING, {}).get("rope_theta"),
    "partial_rotary_factor": lambda c: c.rope_parameters[FULL].get("partial_rotary_factor", _SHARE),
    "swa_num_attention_heads": lambda c: c.num_attention_heads,
    "swa_num_key_value_heads": lambda c: 2 * c.num_key_value_heads,
    "swa_head_dim": lambda c: c.head_dim,
    "swa_v_head_dim": lambda c: c.v_head_dim,
    "add_swa_attention_sink_bias": lambda _: True,
    "add_full_attention_sink_bias": lambda _: False,
    "n_shared_experts": lambda _: 0,
    "scoring_func": lambda _: "sigmoid",
    "topk_method": lambda _: "noaux_tc",
}
"""What transformers computes with, by names of published config.json files that it does not read."""


class _AsPublished(Rule):
    def metadata(self, config: PreTrainedConfig) -> Metadata:
        for name, value in ((name, of(config)) for name, of in _COMPUTED.items()):
            given = vars(config).get(name)
            if given is not None and given != value:
                raise NotSupportedYet(
                    f"{name} {str(given)[:40]} in config.json",
                    why=f"transformers does not read it, and computes this model with {str(value)[:40]}",
                )
        return {}


def _in_window(config: PreTrainedConfig, layer: int) -> bool:
    return bool(config.layer_types[layer] == SLIDING)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = moe.dimensions(config, config.n_routed_experts, config.moe_intermediate_size)
    kv_heads, size = config.num_key_value_heads, config.v_head_dim
    of_windows = {"n_embd_kv_swa": 2 * sizes["n_embd_kv"], "n_embd_v_swa": 2 * kv_heads * size}
    return {
        **sizes,
        **of_windows,
        "n_embd_v": kv_heads * size,
        "n_embd_out": config.num_attention_heads * size,
        "n_embd_qkv_swa": sizes["n_embd_q"] + sum(of_windows.values()),
    }


_SINKS = Tensors(("self_attn.attention_sink_bias",), {"attn_sinks.weight": ("n_head",)})
_EXPERTS: tuple[Row, ...] = (*moe.routed(), moe.BIAS)
_OUTPUT: tuple[Row, ...] = (
    norm("input_layernorm"),
    linear("self_attn.o_proj", "n_embd", "n_embd_out"),
    norm("post_attention_layernorm"),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    here = _in_window(config, layer)
    kind = "_swa" if here else ""
    return (
        *_OUTPUT,
        linear("self_attn.q_proj", "n_embd_q", "n_embd"),
        linear("self_attn.k_proj", f"n_embd_kv{kind}", "n_embd"),
        linear("self_attn.v_proj", f"n_embd_v{kind}", "n_embd"),
        *((_SINKS,) if here else ()),
        *(decoder.gated_mlp() if moe.is_dense(config, layer) else _EXPERTS),
    )


_FUSED = {"attn_qkv.weight": ("n_embd_qkv_swa", "n_embd")}
_AHEAD: tuple[Row, ...] = (
    *_OUTPUT,
    Tensors(  # llama.cpp drafts with one matrix
        tuple(f"self_attn.{name}_proj.weight" for name in "qkv"),
        _FUSED,
        (lambda sizes: Inverse(split("n_embd_q", "n_embd_kv_swa", "n_embd_v_swa")(sizes)),),
    ),
    *decoder.gated_mlp(),
    *JOINED,
    norm("final_layernorm", stem="nextn.shared_head_norm"),
)
"""Dense layers with a window."""


def _by_layer_ahead(config: PreTrainedConfig) -> dict[str, int]:
    return {_HEADS_KV: 2 * config.num_key_value_heads, PATTERN: True}


def _told_by_tensors(tensors: Mapping[str, torch.Tensor], settings: Settings) -> Mapping[str, Any]:
    return {"mlp_layer_types": moe.kinds_by_tensors(tensors, len(settings["layer_types"]))}


MIMO2 = Architecture(
    name="mimo2",
    classes={"MiMoV2FlashForCausalLM": "mimo_v2_flash"},
    restored_as="mimo_v2_flash",
    rules=(
        *decoder.SIZES,
        _Heads(),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        SILU,
        _Rope(share=_SHARE),
        WindowsByLayer(),
        Number("attention.value_scale", "attention_value_scale"),
        *moe.counts("n_routed_experts"),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
        moe.Groups(),
        Fixed("norm_topk_prob", True),
        Fixed("routed_scaling_factor", 1.0),
        Fixed("attention_bias", False),
        _AsPublished(),
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=_block,
    ahead=Ahead(
        lambda _: _AHEAD,
        (
            (r"^model\.mtp\.layers\.(\d+)\.pre_mlp_layernorm\.", "post_attention_layernorm."),
            (r"^model\.mtp\.layers\.(\d+)\.", ""),
        ),
        by_layer=_by_layer_ahead,
        optional=(*TABLES, _SINKS),
    ),
    renames=((r"\.self_attn\.sinks$", ".self_attn.attention_sink_bias"),),  # as transformers has it in memory
    told_by_tensors=_told_by_tensors,
    layout=("mlp_layer_types",),
    translated=(*_COMPUTED, "sliding_window_size"),
)

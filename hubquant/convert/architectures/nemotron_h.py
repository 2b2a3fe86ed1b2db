"""Nemotron-H, Nemotron Nano 2 and 3: each layer is Mamba 2's mixer, attention without positions, a squared ReLU, or
experts of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.ahead import HEAD, Ahead
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import mamba, moe
from hubquant.convert.head_order import interleave_halves
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.heads_by_layer import FULL, LINEAR
from hubquant.convert.rules.rule import (
    Constant,
    Count,
    Epsilon,
    Fixed,
    Number,
    Rule,
    Settings,
    Switch,
    check_count,
    integer,
    out_of_range,
)
from hubquant.convert.rules.state_space import StateHeads, StepsWithoutLimit
from hubquant.convert.tables import Embeddings, Experts, Row, Tensors, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, boolean, i32s, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_MLP, _MOE = "mlp", "moe"
_FF, _KV = "feed_forward_length", "attention.head_count_kv"


class _Layers(Rule):
    """What each layer is: with key-value heads attention, with a width a feed-forward layer, with neither a mixer."""

    reads = ("layers_block_type", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")

    def check(self, settings: Settings) -> None:
        for setting in self.reads[1:]:
            check_count(settings, setting, 1 << 24)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        kinds, heads, kv_heads = config.layers_block_type, config.num_attention_heads, config.num_key_value_heads
        if {_MLP, _MOE} <= {*kinds}:
            raise NotSupportedYet("layers with and without experts", why="llama.cpp has one kind in a file")
        if heads % kv_heads:
            raise out_of_range("num_key_value_heads", kv_heads, f"a divisor of the {heads} attention heads")
        widths = {_MLP: config.intermediate_size, _MOE: config.moe_intermediate_size}
        return {
            _FF: i32s([widths.get(kind, 0) for kind in kinds]),
            "attention.head_count": u32(heads),
            _KV: i32s([kv_heads if kind == FULL else 0 for kind in kinds]),
            "attention.key_length": u32(config.head_dim),
            "attention.value_length": u32(config.head_dim),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = integer(metadata, "block_count") or 0
        widths, kv_heads = (metadata[key].value if key in metadata else None for key in (_FF, _KV))
        for key, found in ((_FF, widths), (_KV, kv_heads)):
            if not isinstance(found, tuple) or len(found) != n_layer or not all(type(each) is int for each in found):
                raise out_of_range(key, found, f"a number for each of {n_layer} layers")
        layers = list(zip(widths, kv_heads, strict=True))  # type: ignore[arg-type]
        dense = _MOE if "expert_count" in metadata else _MLP
        sizes = {
            "intermediate_size": max((width for width, _ in layers), default=0),
            "num_key_value_heads": max((kv for _, kv in layers), default=0),
        }
        return {
            "layers_block_type": [FULL if kv else dense if width else LINEAR for width, kv in layers],
            "num_attention_heads": integer(metadata, "attention.head_count"),
            "head_dim": integer(metadata, "attention.key_length"),
            **{name: size for name, size in sizes.items() if size},
        }


class _InnerSize(Rule):
    """The width of all the mixer's heads."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {"ssm.inner_size": u32(config.mamba_num_heads * config.mamba_head_dim)}


class _Latent(Rule):
    """The width that experts compute in, where it is not the model's."""

    reads = ("moe_latent_size",)

    def check(self, settings: Settings) -> None:
        check_count(settings, self.reads[0], 1 << 24)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {} if config.moe_latent_size is None else {"moe_latent_size": u32(config.moe_latent_size)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {"moe_latent_size": integer(metadata, "moe_latent_size")}


def _with_experts(settings: Settings) -> bool:
    kinds = settings.get("hybrid_override_pattern") or settings.get("layers_block_type") or settings.get("layer_types")
    return isinstance(kinds, str | list) and any(kind in ("E", _MOE) for kind in kinds)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    inner = config.mamba_num_heads * config.mamba_head_dim
    states = mamba.state_dimensions2(
        inner, config.ssm_state_size, config.conv_kernel, config.mamba_num_heads, config.n_groups
    )
    kinds = config.layers_block_type
    experts = config.n_routed_experts if _MOE in kinds else 0
    sizes = moe.dimensions(config, experts, config.moe_intermediate_size, config.moe_shared_expert_intermediate_size)
    first = {"n_head_kv": config.num_key_value_heads if kinds[0] == FULL else 0}
    return {
        **sizes,
        **states,
        **first,
        "n_head_kv_all": config.num_key_value_heads,
        "n_latent_exp": config.moe_latent_size or config.hidden_size,
    }


_MIXERS: dict[str, tuple[Row, ...]] = {
    LINEAR: mamba.whole_mixer2("mixer"),
    FULL: (  # in the order of Llama's, though nothing rotates them
        linear("mixer.q_proj", "n_embd_q", "n_embd", operations=(interleave_halves("n_head"),), stem="attn_q"),
        linear("mixer.k_proj", "n_embd_kv", "n_embd", operations=(interleave_halves("n_head_kv_all"),), stem="attn_k"),
        linear("mixer.v_proj", "n_embd_kv", "n_embd", stem="attn_v"),
        linear("mixer.o_proj", "n_embd", "n_embd_q", stem="attn_output"),
    ),
    _MLP: (
        linear("mixer.up_proj", "n_ff", "n_embd", stem="ffn_up"),
        linear("mixer.down_proj", "n_embd", "n_ff", stem="ffn_down"),
    ),
    _MOE: (
        linear("mixer.gate", "n_expert", "n_embd", stem="ffn_gate_inp"),
        Tensors(("mixer.gate.e_score_correction_bias",), {"exp_probs_b.bias": ("n_expert",)}),
        Experts(
            "mixer.experts.{}.up_proj",
            *("n_ff_exp", "n_latent_exp", moe.given_to("mixer.experts")),
            stem="ffn_up_exps",
            stack=("mixer.experts.up_proj", "all"),
        ),
        Experts(
            "mixer.experts.{}.down_proj",
            *("n_latent_exp", "n_ff_exp", moe.computed_in("mixer.experts")),
            stem="ffn_down_exps",
            stack=("mixer.experts.down_proj", "all"),
        ),
        linear("mixer.shared_experts.up_proj", "n_ff_shexp", "n_embd", stem="ffn_up_shexp"),
        linear("mixer.shared_experts.down_proj", "n_embd", "n_ff_shexp", stem="ffn_down_shexp"),
    ),
}
_COMPRESSED: tuple[Row, ...] = (
    linear("mixer.fc1_latent_proj", "n_latent_exp", "n_embd", stem="ffn_latent_down"),
    linear("mixer.fc2_latent_proj", "n_embd", "n_latent_exp", stem="ffn_latent_up"),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    kind = config.layers_block_type[layer]
    compressed = _COMPRESSED if kind == _MOE and config.moe_latent_size else ()
    return (norm("norm", stem="attn_norm"), *_MIXERS[kind], *compressed)


def _ahead(config: PreTrainedConfig) -> tuple[Row, ...]:
    """Attention and experts, which are two layers in checkpoints and one in GGUF."""
    compressed = _COMPRESSED if config.moe_latent_size else ()
    norms = (norm("norm", stem="attn_norm"), norm("post_attention_layernorm", stem="post_attention_norm"))
    return (*norms, *_MIXERS[FULL], *_MIXERS[_MOE], *compressed, *HEAD)


def _by_layer_ahead(config: PreTrainedConfig) -> dict[str, int]:
    return {_FF: config.moe_intermediate_size, _KV: config.num_key_value_heads}


_NAMES_AHEAD = (
    (r"^mtp\.layers\.1\.norm\.", "post_attention_layernorm."),
    (r"^mtp\.layers\.1\.final_layernorm\.", "shared_head.norm."),
    (r"^mtp\.layers\.[01]\.", ""),
)
_OF_EXPERTS = (
    *("n_routed_experts", "num_experts_per_tok", "n_shared_experts", "moe_shared_expert_intermediate_size"),
    *("moe_intermediate_size", "moe_latent_size", "n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor"),
)
_WITHOUT_EFFECT = (
    *("max_position_embeddings", "expand", "mamba_ssm_cache_dtype", "moe_shared_expert_overlap"),
    *("num_nextn_predict_layers", "mtp_layers_block_type"),
)

NEMOTRON_H = Architecture(
    name="nemotron_h",
    classes={"NemotronHForCausalLM": "nemotron_h"},
    restored_as="nemotron_h",
    rules=(
        *mamba.SIZES,
        _Layers(),
        Constant("rope.scaling.finetuned", boolean(False)),
        Epsilon("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        Epsilon("attention.layer_norm_rms_epsilon", "layer_norm_epsilon"),
        Count("ssm.conv_kernel", "conv_kernel", most=1 << 10),
        _InnerSize(),
        Count("ssm.state_size", "ssm_state_size", most=1 << 16),
        StateHeads("mamba_num_heads", "mamba_head_dim", "n_groups"),
        StepsWithoutLimit(),
        Fixed("mlp_hidden_act", "relu2"),
        Fixed("mamba_hidden_act", "silu"),
        Fixed("use_conv_bias", True),
        Fixed("sliding_window", None),
        *(Fixed(name, False) for name in ("use_bias", "mlp_bias", "attention_bias", "mamba_proj_bias")),
    ),
    dimensions=_dimensions,
    outside=(Embeddings("model.embeddings"), norm("model.norm_f", stem="output_norm")),
    block=_block,
    renames=((r"^backbone\.", "model."),),
    without_effect=(*_WITHOUT_EFFECT, *_OF_EXPERTS),
)
NEMOTRON_H_MOE = replace(
    NEMOTRON_H,
    name="nemotron_h_moe",
    rules=(
        *NEMOTRON_H.rules,
        *moe.counts("n_routed_experts"),
        Count("expert_shared_count", "n_shared_experts", most=moe.MOST_EXPERTS),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
        Count("expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size"),
        moe.Groups(),
        Switch("expert_weights_norm", "norm_topk_prob"),
        Number("expert_weights_scale", "routed_scaling_factor"),
        _Latent(),
    ),
    ahead=Ahead(_ahead, _NAMES_AHEAD, _by_layer_ahead),
    takes=_with_experts,
    without_effect=_WITHOUT_EFFECT,
)

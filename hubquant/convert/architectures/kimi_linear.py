"""Kimi Linear (https://arxiv.org/abs/2510.26692): delta nets in which each channel has its own decay, in most layers,
latent attention without positions in the others, and experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, latent, moe
from hubquant.convert.operations import Dimensions, NegativeExp, OperationFor, always, reshape
from hubquant.convert.rules.by_layer import MOST_LAYERS, by_layer
from hubquant.convert.rules.heads_by_layer import FULL, LINEAR, attends, first_layer
from hubquant.convert.rules.rule import (
    SILU,
    Constant,
    Count,
    Fixed,
    Number,
    Rule,
    Settings,
    check_count,
    check_list,
    integer,
    out_of_range,
)
from hubquant.convert.tables import Row, Tensors, inputs_of, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, i32s, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_KV = "attention.head_count_kv"


class _Layers(Rule):
    """Key-value heads only in the layers with attention; the delta nets have as many heads as it has."""

    reads = ("layer_types", "linear_num_heads")

    def check(self, settings: Settings) -> None:
        check_list(settings, "layer_types")
        check_count(settings, "linear_num_heads", 1 << 16)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        kinds = list(config.layer_types)
        if len(kinds) != config.num_hidden_layers or not {*kinds} <= {FULL, LINEAR}:
            raise out_of_range("layer_types", kinds, f"{FULL} or {LINEAR} for each of {config.num_hidden_layers}")
        if config.linear_num_heads != config.num_attention_heads:
            raise NotSupportedYet(
                f"{config.linear_num_heads} heads of delta nets beside {config.num_attention_heads} of attention",
                why="llama.cpp has one number for both",
            )
        return {_KV: i32s(int(kind == FULL) for kind in kinds)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        heads = by_layer(metadata, _KV, min(integer(metadata, "block_count") or 0, MOST_LAYERS))
        return {
            "layer_types": [FULL if count else LINEAR for count in heads],
            "linear_num_heads": integer(metadata, "attention.head_count"),
        }


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width, size = config.moe_intermediate_size, config.linear_head_dim
    sizes = {
        **moe.dimensions(config, config.num_local_experts, width, width * config.n_shared_experts),
        **latent.dimensions(config),
        "n_state": size,
        "n_states": size * config.linear_num_heads,
        "n_conv": config.linear_conv_kernel_dim,
    }
    return first_layer(sizes, config)


def _state(source: str, target: str, shape: tuple[str, ...], operations: tuple[OperationFor, ...] = ()) -> Row:
    return Tensors((f"self_attn.{source}",), {target: shape}, operations)


def _convolution(part: str) -> Row:
    shape = ("one", "n_states", "one", "n_conv")
    flat = reshape(("n_states", "one", "n_conv"), shape)
    return _state(f"{part}_conv1d.weight", f"ssm_conv1d_{part}.weight", shape, (flat,))


_BY_HEAD = ("one", "one", "n_head", "one")


def _inside_gate(name: str, rows: str, columns: str) -> Row:
    """A matrix that transformers has in a module of its own."""
    tap = inputs_of(f"self_attn.forget_gate.{name}")
    return Tensors((f"self_attn.{name}.weight",), {f"ssm_{name[:3]}.weight": (rows, columns)}, taps=(tap,))


_DELTA_NET: tuple[Row, ...] = (
    *(linear(f"self_attn.{part}_proj", "n_states", "n_embd") for part in "qkv"),
    *(_convolution(part) for part in "qkv"),
    _inside_gate("f_a_proj", "n_state", "n_embd"),
    _inside_gate("f_b_proj", "n_states", "n_state"),
    _state("dt_bias", "ssm_dt.bias", ("n_states",)),
    _state("A_log", "ssm_a", _BY_HEAD, (reshape(_BY_HEAD, _BY_HEAD), always(NegativeExp()))),
    linear("self_attn.b_proj", "n_head", "n_embd"),
    linear("self_attn.g_a_proj", "n_state", "n_embd"),
    linear("self_attn.g_b_proj", "n_states", "n_state"),
    norm("self_attn.o_norm", "n_state"),
    linear("self_attn.o_proj", "n_embd", "n_states"),
)
_EXPERTS: tuple[Row, ...] = (
    *moe.routed(
        "block_sparse_moe.gate", "block_sparse_moe.experts", ("w1", "w3", "w2"), modules=("mlp.gate", "mlp.experts")
    ),
    *moe.shared("block_sparse_moe.shared_experts", "mlp.shared_experts"),
    Tensors(("block_sparse_moe.gate.e_score_correction_bias",), moe.BIAS.targets),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    return (
        norm("input_layernorm"),
        *(latent.attention(config) if attends(config, layer) else _DELTA_NET),
        norm("post_attention_layernorm"),
        *(decoder.gated_mlp() if moe.is_dense(config, layer) else _EXPERTS),
    )


KIMI_LINEAR = Architecture(
    name="kimi-linear",
    classes={"KimiLinearForCausalLM": "kimi_linear"},
    restored_as="kimi_linear",
    rules=(
        *decoder.SIZES,
        latent.LatentHeads(query_rank=False),
        Count("rope.dimension_count", "qk_rope_head_dim"),
        _Layers(),
        Count("kda.head_dim", "linear_head_dim", most=1 << 16),
        Count("ssm.conv_kernel", "linear_conv_kernel_dim", most=1 << 10),
        latent.LatentEpsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        moe.DenseLayersFirst(),
        *moe.counts("num_local_experts"),
        moe.Groups("num_local_experts"),
        Count("expert_shared_count", "n_shared_experts", most=moe.MOST_EXPERTS),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
        Number("expert_weights_scale", "routed_scaling_factor"),
        Constant("expert_gating_func", u32(moe.SIGMOID)),
        Fixed("norm_topk_prob", True),
        Fixed("moe_router_activation_func", "sigmoid"),
        Fixed("use_grouped_topk", True),
        Fixed("moe_layer_freq", 1),
        Fixed("mla_use_nope", True),
        Fixed("attention_bias", False),
        SILU,
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=_block,
    renames=((r"\.block_sparse_moe\.((?:gate|up|down)_proj\.)", r".mlp.\1"),),  # as transformers saves dense layers
    translated=("first_k_dense_replace", "head_dim", "linear_attn_config"),
)

"""Laguna: gates on the results of attention, perhaps windows with rope and heads of their own, DeepSeek V3's experts
without groups behind dense layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.by_layer import MOST_LAYERS, PartialRopeByKind, WindowsByLayer, by_layer, one_or_each
from hubquant.convert.rules.rule import (
    SILU,
    Constant,
    Count,
    Epsilon,
    Fixed,
    Heads,
    Number,
    Rule,
    Settings,
    check_list,
    integer,
    out_of_range,
)
from hubquant.convert.tables import Row, Tensors, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, boolean, u32

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_BY_LAYER = "num_attention_heads_per_layer"
_PER_HEAD, _PER_ELEMENT = "per-head", "per-element"


class _Heads(Rule):
    """Heads of queries, of which layers may have different numbers."""

    reads = (*Heads.reads, _BY_LAYER)

    def check(self, settings: Settings) -> None:
        Heads().check(settings)
        check_list(settings, _BY_LAYER)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        counts, kv_heads = getattr(config, _BY_LAYER), config.num_key_value_heads
        if not all(type(heads) is int and heads > 0 and heads % kv_heads == 0 for heads in counts):
            raise out_of_range(_BY_LAYER, counts, f"multiples of the {kv_heads} key-value heads")
        return {**Heads().metadata(config), "attention.head_count": one_or_each(counts)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = min(integer(metadata, "block_count") or 0, MOST_LAYERS)
        counts = list(by_layer(metadata, "attention.head_count", n_layer))
        return {
            "num_attention_heads": counts[0] if counts else None,
            _BY_LAYER: counts,
            "num_key_value_heads": integer(metadata, "attention.head_count_kv"),
            "head_dim": integer(metadata, "attention.key_length"),
        }


class _Gating(Rule):
    """A gate for each head, or for each number of it: the width of its matrix tells."""

    reads = ("gating",)

    def check(self, settings: Settings) -> None:
        value = settings.get("gating")
        if value is not None and value is not True and value not in (_PER_HEAD, _PER_ELEMENT):
            raise NotSupportedYet(f"gating {str(value)[:40]!r}", why=f"known here: {_PER_HEAD}, {_PER_ELEMENT}")


def _told_by_tensors(tensors: Mapping[str, torch.Tensor], settings: Settings) -> Mapping[str, Any]:
    name = "blk.0.attn_gate.weight"
    rows = tensors[name].shape[0] if name in tensors else 0
    return {"gating": _PER_HEAD if rows == settings["num_attention_heads"] else _PER_ELEMENT}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width, size = config.shared_expert_intermediate_size, config.head_dim
    sizes = moe.dimensions(config, config.num_experts, config.moe_intermediate_size, width)
    counts = [int(heads) for heads in getattr(config, _BY_LAYER)]
    return {**sizes, "n_head": counts[0], **decoder.by_heads(counts, size)}


_EXPERTS: tuple[Row, ...] = (
    *moe.routed(),
    *moe.shared("mlp.shared_expert", "mlp.shared_experts"),
    Tensors(("mlp.experts.e_score_correction_bias",), moe.BIAS.targets),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    heads = getattr(config, _BY_LAYER)[layer]
    queries = f"n_embd_q_{heads}"
    gates = queries if config.gating == _PER_ELEMENT else f"n_head_{heads}"
    return (
        norm("input_layernorm"),
        linear("self_attn.q_proj", queries, "n_embd"),
        linear("self_attn.k_proj", "n_embd_kv", "n_embd"),
        linear("self_attn.v_proj", "n_embd_kv", "n_embd"),
        linear("self_attn.g_proj", gates, "n_embd", stem="attn_gate"),
        linear("self_attn.o_proj", "n_embd", queries),
        norm("self_attn.q_norm", "n_embd_head"),
        norm("self_attn.k_norm", "n_embd_head"),
        norm("post_attention_layernorm"),
        *(decoder.gated_mlp() if moe.is_dense(config, layer) else _EXPERTS),
    )


LAGUNA = Architecture(
    name="laguna",
    classes={"LagunaForCausalLM": "laguna"},
    restored_as="laguna",
    rules=(
        *decoder.SIZES,
        _Heads(),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        SILU,
        PartialRopeByKind(("default", "yarn")),
        WindowsByLayer(optional=True),
        _Gating(),
        moe.DenseLayersFirst(),
        *moe.counts("num_experts"),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
        Count("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
        Number("expert_weights_scale", "moe_routed_scaling_factor"),
        Constant("expert_weights_norm", boolean(True)),
        Constant("expert_gating_func", u32(moe.SIGMOID)),
        Fixed("moe_router_logit_softcapping", 0.0),
        Fixed("moe_apply_router_weight_on_input", False),
        Fixed("attention_bias", False),
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=_block,
    renames=(  # as transformers has them in memory
        (r"\.mlp\.gate\.e_score_correction_bias$", ".mlp.experts.e_score_correction_bias"),
        (r"\.mlp\.shared_experts\.", ".mlp.shared_expert."),
    ),
    told_by_tensors=_told_by_tensors,
)

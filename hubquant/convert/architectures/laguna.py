"""Laguna: gates on the results of attention, perhaps windows with rope and heads of their own, DeepSeek V3's experts
without groups behind dense layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.by_layer import MOST_LAYERS, WindowsByLayer, by_layer, one_or_each
from hubquant.convert.rules.rope import Rope
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
    number,
    out_of_range,
)
from hubquant.convert.rules.windows import FULL, SLIDING
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


@dataclass(frozen=True)
class _RopeByKind(Rule):
    """Each kind of layer rotates a share of its heads, with a frequency base of its own; windows have no scaling."""

    full = Rope(("default", "yarn"), partial=True)
    window = Rope(("default",), partial=True)
    reads = Rope.reads

    def check(self, settings: Settings) -> None:
        parameters = settings.get("rope_parameters")
        if parameters is None:
            return
        if not isinstance(parameters, dict) or not {FULL} <= parameters.keys() <= {FULL, SLIDING}:
            raise out_of_range("rope_parameters", parameters, "a table for each kind of layer")
        self.full.check({"rope_parameters": parameters[FULL]})
        self.window.check({"rope_parameters": parameters.get(SLIDING)})

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        def of(rule: Rope, kind: str) -> Metadata:
            given = SimpleNamespace(rope_parameters=config.rope_parameters[kind], head_dim=config.head_dim)
            return rule.metadata(cast("PreTrainedConfig", given))

        result = of(self.full, FULL)
        if SLIDING not in config.layer_types:
            return result
        if SLIDING not in config.rope_parameters:
            raise out_of_range("rope_parameters", config.rope_parameters, "with a table for layers with a window")
        window = of(self.window, SLIDING)
        return result | {f"{key}_swa": value for key, value in window.items()}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        size = integer(metadata, "attention.key_length")
        window: dict[str, Any] = {
            "rope_type": "default",
            "rope_theta": number(metadata, "rope.freq_base_swa") or 10000.0,
            "partial_rotary_factor": (integer(metadata, "rope.dimension_count_swa") or size or 1) / (size or 1),
        }
        return {"rope_parameters": {FULL: self.full.settings(metadata)["rope_parameters"], SLIDING: window}}


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
    counts = {int(heads) for heads in getattr(config, _BY_LAYER)}
    queries = {f"n_embd_q_{heads}": heads * size for heads in counts} | {f"n_head_{heads}": heads for heads in counts}
    return {**sizes, "n_head": getattr(config, _BY_LAYER)[0], **queries}


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
        _RopeByKind(),
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

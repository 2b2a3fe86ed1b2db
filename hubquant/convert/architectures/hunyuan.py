"""Hunyuan V1, dense and with a mixture of experts: norms of heads behind rope, whose base a factor stretches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import DYNAMIC, Rope, raw_parameters, rope_type, tells_rope
from hubquant.convert.rules.rule import Count, Fixed, Rule, Settings, head_size, is_number, out_of_range
from hubquant.convert.rules.sections import Sections
from hubquant.convert.tables import Row, norm
from hubquant.gguf_file.metadata import Metadata, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_STRETCHED_CONTEXT = 1 << 18
"""What a stretched base is made for (https://github.com/Tencent-Hunyuan/Hunyuan-A13B), whatever config.json says."""


@dataclass(frozen=True)
class _StretchedRope(Rule):
    """``dynamic`` rope with ``alpha``: the default one whose base is ``rope_theta`` · alpha^(d / (d - 2)) for heads of
    size d, in texts of every length."""

    rope = Rope(("default",))
    reads = Rope.reads

    def check(self, settings: Settings) -> None:
        parameters = raw_parameters(settings) if tells_rope(settings) else {}
        if rope_type(parameters) != DYNAMIC:
            self.rope.check(settings)
            return
        alpha = parameters.get("alpha")
        if not (is_number(alpha) and 0 < alpha < 1e6):
            raise out_of_range("rope's alpha", alpha, "a number above 0")
        self.rope.check({"rope_parameters": {"rope_theta": parameters.get("rope_theta")}})

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        parameters = config.rope_parameters
        if rope_type(parameters) != DYNAMIC:
            return self.rope.metadata(config)
        size = head_size(config)
        base = parameters["rope_theta"] * parameters["alpha"] ** (size / (size - 2))
        default = SimpleNamespace(rope_parameters={"rope_theta": base}, head_dim=size)
        return {
            **self.rope.metadata(cast("PreTrainedConfig", default)),
            "rope.scaling.original_context_length": u32(config.max_position_embeddings),
            "context_length": u32(_STRETCHED_CONTEXT),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return self.rope.settings(metadata)


_ATTENTION: tuple[Row, ...] = (
    norm("input_layernorm"),
    *decoder.attention(),
    norm("self_attn.query_layernorm", "n_embd_head"),
    norm("self_attn.key_layernorm", "n_embd_head"),
    norm("post_attention_layernorm"),
)
_RULES: tuple[Rule, ...] = (
    *decoder.RULES,
    _StretchedRope(),
    Fixed("attention_bias", False),
    Fixed("use_qk_norm", True),
    Fixed("use_cla", False),
)
_SHARED = ("moe_intermediate_size", "num_shared_expert")


def _alike(settings: Settings) -> dict[str, Any]:
    """What config.json lists for each layer is the same in all; transformers and llama.cpp know no other widths."""
    result = dict(settings)
    for name in ("num_experts", "moe_topk", *_SHARED):
        values = settings.get(name)
        if isinstance(values, list):
            if not values or any(value != values[0] for value in values):
                raise out_of_range(name, values, "the same in every layer")
            result[name] = values[0]
    expected = {"moe_intermediate_size": settings.get("intermediate_size"), "num_shared_expert": 1}
    for name, value in expected.items():
        if result.pop(name, None) not in (None, value):
            raise out_of_range(name, settings[name], f"{value} in every layer")
    return result


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width = config.intermediate_size
    return moe.dimensions(config, config.num_experts, width, width)


HUNYUAN_DENSE = Architecture(
    name="hunyuan-dense",
    classes={"HunYuanDenseV1ForCausalLM": "hunyuan_v1_dense"},
    restored_as="hunyuan_v1_dense",
    rules=_RULES,
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*_ATTENTION, *decoder.gated_mlp()),
    without_effect=("eod_token_id",),
)
HUNYUAN_MOE = Architecture(
    name="hunyuan-moe",
    classes={"HunYuanMoEV1ForCausalLM": "hunyuan_v1_moe"},
    restored_as="hunyuan_v1_moe",
    rules=(
        *_RULES,
        *moe.counts("num_experts", "moe_topk"),
        Count("expert_feed_forward_length", "intermediate_size"),
        Count("expert_shared_feed_forward_length", "intermediate_size"),
        Fixed("moe_layer_num_skipped", 0),
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(
        *_ATTENTION,
        *moe.routed("mlp.gate.wg", "mlp.experts"),
        *moe.shared("mlp.shared_mlp"),
    ),
    translate=_alike,
    translated=_SHARED,
    without_effect=("eod_token_id", "sep_token_id"),
)
HUNYUAN_VL = replace(
    HUNYUAN_DENSE,
    name="hunyuan_vl",
    classes={"HunYuanVLForConditionalGeneration": "hunyuan_v1_dense"},
    rules=(*HUNYUAN_DENSE.rules, Sections((16, 16, 16, 16))),
)

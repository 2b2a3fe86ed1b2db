"""GLM-4.5 to 4.7, and what reads in GLM-4.5V: rope on half of each head, dense layers before those with experts. Solar
Open is one without dense layers to llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.ahead import HEAD, Ahead
from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Computed, Constant, Fixed, Settings
from hubquant.convert.rules.sections import Sections
from hubquant.convert.tables import Row, norm
from hubquant.gguf_file.metadata import u32

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_ROPES = ("default", "yarn")
_ATTENTION: tuple[Row, ...] = (
    norm("input_layernorm"),
    *decoder.attention(bias="attention_bias"),
)
_NORMS: tuple[Row, ...] = (norm("self_attn.q_norm", "n_embd_head"), norm("self_attn.k_norm", "n_embd_head"))
_EXPERTS: tuple[Row, ...] = (*moe.routed(), *moe.shared("mlp.shared_experts"), moe.BIAS)


_UNUSED_WIDTH = Computed(
    decoder.FEED_FORWARD.key,
    decoder.FEED_FORWARD.setting,
    lambda config: getattr(config, "intermediate_size", config.moe_intermediate_size),
)
"""Of the dense layers that Solar Open has not, as config.json may say it all the same."""


def _attention(config: PreTrainedConfig) -> tuple[Row, ...]:
    return (*_ATTENTION, *(_NORMS if config.use_qk_norm else ()), norm("post_attention_layernorm"))


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    return (*_attention(config), *(decoder.gated_mlp() if moe.is_dense(config, layer) else _EXPERTS))


def _ahead(config: PreTrainedConfig) -> tuple[Row, ...]:
    """With experts, as behind the dense layers."""
    return (*_attention(config), *_EXPERTS, *HEAD)


def _told_by_tensors(tensors: Mapping[str, torch.Tensor], _settings: Settings) -> dict[str, Any]:
    return {"use_qk_norm": "blk.0.attn_q_norm.weight" in tensors}


GLM4_MOE = Architecture(
    name="glm4moe",
    classes={"Glm4MoeForCausalLM": "glm4_moe"},
    restored_as="glm4_moe",
    rules=(
        *decoder.RULES,
        Rope(_ROPES, partial=True),
        *moe.WITH_DENSE_LAYERS,
        *moe.SIGMOID_IN_GROUPS,
    ),
    dimensions=moe.with_dense_layers,
    outside=decoder.OUTSIDE,
    block=_block,
    ahead=Ahead(_ahead),
    told_by_tensors=_told_by_tensors,
    layout=("use_qk_norm",),
)
SOLAR_OPEN = replace(
    GLM4_MOE,
    classes={"SolarOpenForCausalLM": "solar_open"},
    rules=(
        *(_UNUSED_WIDTH if rule == decoder.FEED_FORWARD else rule for rule in decoder.RULES),
        Rope(_ROPES),
        Constant("leading_dense_block_count", u32(0)),
        Fixed("first_k_dense_replace", 0),
        *(rule for rule in moe.WITH_DENSE_LAYERS if rule != moe.DENSE_BY_COUNT),
        *moe.SIGMOID_IN_GROUPS,
    ),
    block=every_layer(*_ATTENTION, norm("post_attention_layernorm"), *_EXPERTS),
    ahead=None,
    layout=(),
)
GLM4_V_MOE = replace(
    GLM4_MOE,
    classes={"Glm4vMoeForConditionalGeneration": "glm4_moe"},
    rules=(*GLM4_MOE.rules, Sections((8, 12, 12))),
)

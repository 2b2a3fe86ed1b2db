"""Granite: Llama with factors on embeddings, attention, residuals and logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, llama, moe
from hubquant.convert.operations import Dimensions, split
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Count, Number, Rule, integer
from hubquant.convert.tables import Module, Row, Tensors, inputs_of
from hubquant.gguf_file.metadata import Metadata

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SCALES: tuple[Rule, ...] = (
    Number("attention.scale", "attention_multiplier"),
    Number("embedding_scale", "embedding_multiplier"),
    Number("residual_scale", "residual_multiplier"),
    Number("logit_scale", "logits_scaling"),
)
RULES: tuple[Rule, ...] = (*decoder.RULES, Rope(), *SCALES)


@dataclass(frozen=True)
class PlainAttentionScale(Rule):
    """Attention scaled by the root of the head size, which llama.cpp does unasked and Granite's config spells out."""

    reads = ("attention_multiplier",)

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        size = integer(metadata, "attention.key_length")
        return {"attention_multiplier": size**-0.5 if size else None}


EXPERTS: tuple[Row, ...] = (
    Module(
        "block_sparse_moe.router.layer",
        ("n_expert", "n_embd"),
        tap=inputs_of("block_sparse_moe.router"),
        stem="ffn_gate_inp",
    ),
    Tensors(
        ("block_sparse_moe.input_linear.weight",),
        {
            "ffn_gate_exps.weight": ("n_expert", "n_ff_exp", "n_embd"),
            "ffn_up_exps.weight": ("n_expert", "n_ff_exp", "n_embd"),
        },
        (split("n_ff_exp", "n_ff_exp", axis=1),),
        taps=2 * (moe.given_to("block_sparse_moe.experts"),),
    ),
    Tensors(
        ("block_sparse_moe.output_linear.weight",),
        {"ffn_down_exps.weight": ("n_expert", "n_embd", "n_ff_exp")},
        taps=(moe.computed_in("block_sparse_moe.experts"),),
    ),
)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return moe.dimensions(config, config.num_local_experts, config.intermediate_size)


GRANITE = Architecture(
    name="granite",
    classes={"GraniteForCausalLM": "granite"},
    restored_as="granite",
    rules=RULES,
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*llama.ATTENTION, *decoder.gated_mlp(bias="mlp_bias")),
)
GRANITE_MOE = Architecture(
    name="granitemoe",
    classes={"GraniteMoeForCausalLM": "granitemoe"},
    restored_as="granitemoe",
    rules=(
        *RULES,
        Count("expert_count", "num_local_experts", most=moe.MOST_EXPERTS),
        Count("expert_used_count", "num_experts_per_tok", most=moe.MOST_EXPERTS),
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(
        *llama.ATTENTION,
        *EXPERTS,
    ),
)

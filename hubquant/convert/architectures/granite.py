"""Granite: Llama with factors on embeddings, attention, residuals and logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, llama, mixtral, moe
from hubquant.convert.operations import Dimensions, split
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Count, Number, Rule, integer
from hubquant.convert.tables import Row, Tensors, inputs_of, linear
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
    linear(
        "block_sparse_moe.router.layer", "n_expert", "n_embd", computing="block_sparse_moe.router", stem="ffn_gate_inp"
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


def shared(*stems: str, size: str) -> tuple[Row, ...]:
    """What every token passes, by its names in GGUF: gate, up and down."""
    gate, up, down = (f"{stem}.weight" for stem in stems)
    return (
        Tensors(
            ("shared_mlp.input_linear.weight",),
            {gate: (size, "n_embd"), up: (size, "n_embd")},
            (split(size, size),),
            taps=2 * (inputs_of("shared_mlp.input_linear"),),
        ),
        Tensors(
            ("shared_mlp.output_linear.weight",),
            {down: ("n_embd", size)},
            taps=(inputs_of("shared_mlp.output_linear"),),
        ),
    )


SHARED = shared("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp", size="n_ff_shexp")


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width = getattr(config, "shared_intermediate_size", 0)
    return moe.dimensions(config, config.num_local_experts, config.intermediate_size, width)


GRANITE = Architecture(
    name="granite",
    classes={"GraniteForCausalLM": "granite"},
    restored_as="granite",
    rules=RULES,
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*llama.ATTENTION, *decoder.gated_mlp(bias="mlp_bias")),
)


def _block_with_shared(config: PreTrainedConfig, _layer: int) -> tuple[Row, ...]:
    return (*llama.ATTENTION, *EXPERTS, *(SHARED if config.shared_intermediate_size else ()))


GRANITE_MOE = Architecture(
    name="granitemoe",
    classes={"GraniteMoeForCausalLM": "granitemoe"},
    restored_as="granitemoe",
    rules=(*RULES, *mixtral.COUNTS),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*llama.ATTENTION, *EXPERTS),
)
GRANITE_MOE_SHARED = replace(
    GRANITE_MOE,
    classes={"GraniteMoeSharedForCausalLM": "granitemoeshared"},
    restored_as="granitemoeshared",
    rules=(*GRANITE_MOE.rules, Count("expert_shared_feed_forward_length", "shared_intermediate_size", least=0)),
    block=_block_with_shared,
    marker="expert_shared_feed_forward_length",
)

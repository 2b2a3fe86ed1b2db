"""Llama 4 (text): experts in some or all layers beside one that every token passes, every fourth layer without rope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.operations import Dimensions, Transpose, always, split
from hubquant.convert.rules.rope import Rope, rope_freqs
from hubquant.convert.rules.rule import SILU, Count, Epsilon, Fixed, Heads, Rule, Settings, check_list, integer
from hubquant.convert.rules.windows import FULL, LayersWithoutRope
from hubquant.convert.tables import Row, Tensors, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_WITHOUT_NORM = 128  # experts of the model whose queries and keys llama.cpp does not normalize


@dataclass(frozen=True)
class NormOfHeads(Rule):
    """llama.cpp knows by the number of experts whether queries and keys are normalized."""

    reads = ("use_qk_norm", "num_local_experts")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if config.use_qk_norm == (config.num_local_experts == _WITHOUT_NORM):
            raise NotSupportedYet(
                f"use_qk_norm {config.use_qk_norm} with {config.num_local_experts} experts",
                why=f"llama.cpp normalizes queries and keys unless there are {_WITHOUT_NORM} experts",
            )
        return {}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {"use_qk_norm": integer(metadata, "expert_count") != _WITHOUT_NORM}


@dataclass(frozen=True)
class ExpertLayers(Rule):
    """The last of every ``interleave_moe_layer_step`` layers has experts."""

    step = Count("interleave_moe_layer_step", "interleave_moe_layer_step", most=10_000)
    reads = (*step.reads, "moe_layers")

    def check(self, settings: Settings) -> None:
        self.step.check(settings)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        step = config.interleave_moe_layer_step
        if list(config.moe_layers) != list(range(step - 1, config.num_hidden_layers, step)):
            raise NotSupportedYet(
                "this order of layers with experts", why=f"interleave_moe_layer_step {step} does not describe it"
            )
        return self.step.metadata(config)

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return self.step.settings(metadata)


@dataclass(frozen=True)
class AttentionChunks(Rule):
    """Layers with rope see their chunk of the text, those without see all of it."""

    reads = ("layer_types", "attention_chunk_size")
    size = Fixed("attention_chunk_size", 8192)

    def check(self, settings: Settings) -> None:
        check_list(settings, "layer_types")
        self.size.check(settings)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        chunked = ["chunked_attention" if rope else FULL for rope in config.no_rope_layers]
        if list(config.layer_types) != chunked or config.attention_chunk_size is None:
            raise NotSupportedYet("these layer_types", why="llama.cpp sees chunks where there is rope, and only there")
        return {}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width = config.intermediate_size
    sizes = moe.dimensions(config, config.num_local_experts, width, width)
    return {**sizes, "n_ff": config.intermediate_size_mlp}


_EXPERTS: tuple[Row, ...] = (
    linear("feed_forward.router", "n_expert", "n_embd"),
    Tensors(
        ("feed_forward.experts.gate_up_proj",),
        {
            "ffn_gate_exps.weight": ("n_expert", "n_ff_exp", "n_embd"),
            "ffn_up_exps.weight": ("n_expert", "n_ff_exp", "n_embd"),
        },
        (always(Transpose()), split("n_ff_exp", "n_ff_exp", axis=1)),
        taps=2 * (moe.given_to("feed_forward.experts", way="spread"),),
    ),
    Tensors(
        ("feed_forward.experts.down_proj",),
        {"ffn_down_exps.weight": ("n_expert", "n_embd", "n_ff_exp")},
        (always(Transpose()),),
        taps=(moe.computed_in("feed_forward.experts", way="spread"),),
    ),
    *moe.shared("feed_forward.shared_expert"),
)
_DENSE: tuple[Row, ...] = (
    linear("feed_forward.gate_proj", "n_ff", "n_embd"),
    linear("feed_forward.up_proj", "n_ff", "n_embd"),
    linear("feed_forward.down_proj", "n_embd", "n_ff"),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    return (
        norm("input_layernorm"),
        *decoder.attention(),
        norm("post_attention_layernorm"),
        *(_EXPERTS if layer in config.moe_layers else _DENSE),
    )


LLAMA4 = Architecture(
    name="llama4",
    classes={"Llama4ForCausalLM": "llama4_text"},
    restored_as="llama4_text",
    rules=(
        Count("vocab_size", "vocab_size"),
        Count("context_length", "max_position_embeddings", most=(1 << 31) - 1),
        Count("embedding_length", "hidden_size"),
        Count("block_count", "num_hidden_layers", most=10_000),
        Count("feed_forward_length", "intermediate_size_mlp"),
        Count("expert_feed_forward_length", "intermediate_size"),
        *moe.counts("num_local_experts"),
        ExpertLayers(),
        Heads(),
        NormOfHeads(),
        Rope(("default", "llama3")),
        LayersWithoutRope(period=4),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        AttentionChunks(),
        Fixed("attn_temperature_tuning", True),
        Fixed("floor_scale", 8192),
        Fixed("attn_scale", 0.1),
        Fixed("attention_bias", False),
        SILU,
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=_block,
    constants=rope_freqs,
)

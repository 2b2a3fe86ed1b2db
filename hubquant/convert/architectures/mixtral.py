"""Mixtral: Llama with experts instead of the feed-forward layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, llama, moe
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.windows import DroppedWindow

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


EXPERTS = moe.routed(
    "block_sparse_moe.gate", "block_sparse_moe.experts", ("w1", "w3", "w2"), ("mlp.gate", "mlp.experts")
)
COUNTS = moe.counts("num_local_experts")


def dimensions(config: PreTrainedConfig) -> Dimensions:
    return moe.dimensions(config, config.num_local_experts, config.intermediate_size)


MIXTRAL = Architecture(
    name="llama",
    classes={"MixtralForCausalLM": "mixtral"},
    restored_as="mixtral",
    marker="expert_count",
    rules=(*decoder.RULES, Rope(), DroppedWindow(), *COUNTS),
    renames=((r"\.mlp\.gate\.", ".block_sparse_moe.gate."),),  # as transformers has it in memory
    dimensions=dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*llama.ATTENTION, *EXPERTS),
)

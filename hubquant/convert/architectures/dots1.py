"""dots.llm1: Qwen3's attention with a key-value head for each head, DeepSeek V3's experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe, qwen3
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import SILU, Epsilon, Fixed, Heads
from hubquant.convert.rules.windows import DroppedWindow

if TYPE_CHECKING:
    pass


DOTS1 = Architecture(
    name="dots1",
    classes={"Dots1ForCausalLM": "dots1"},
    restored_as="dots1",
    rules=(
        *decoder.SIZES,
        Heads(grouped=False),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        SILU,
        Rope(),
        DroppedWindow(("sliding_window", "max_window_layers", "layer_types")),
        *moe.WITH_DENSE_LAYERS,
        *moe.SIGMOID_IN_GROUPS,
        Fixed("attention_bias", False),
    ),
    dimensions=moe.with_dense_layers,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=moe.behind_dense(qwen3.ATTENTION, (*moe.routed(), *moe.shared("mlp.shared_experts"), moe.BIAS)),
)

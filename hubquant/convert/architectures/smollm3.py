"""SmolLM3: Llama in which every fourth layer knows no positions."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, llama
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Fixed
from hubquant.convert.rules.windows import DroppedWindow, LayersWithoutRope

SMOLLM3 = Architecture(
    name="smollm3",
    classes={"SmolLM3ForCausalLM": "smollm3"},
    restored_as="smollm3",
    rules=(
        *decoder.RULES,
        Rope(),
        LayersWithoutRope(period=4),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
        DroppedWindow(("sliding_window", "use_sliding_window", "layer_types")),
    ),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*llama.ATTENTION, *decoder.gated_mlp()),
)

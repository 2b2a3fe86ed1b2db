"""Ministral 3: Llama with yarn whose attention gets sharper with the position."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, llama
from hubquant.convert.rules.windows import DroppedWindow
from hubquant.convert.rules.yarn import TemperedYarn

MINISTRAL3 = Architecture(
    name="mistral3",
    classes={"Ministral3ForCausalLM": "ministral3"},
    restored_as="ministral3",
    rules=(*decoder.RULES, TemperedYarn(), DroppedWindow()),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*llama.ATTENTION, *decoder.gated_mlp()),
)

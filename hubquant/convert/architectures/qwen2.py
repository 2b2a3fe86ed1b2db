"""Qwen 1.5, 2 and 2.5."""

from dataclasses import replace

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.windows import QWEN_WINDOW
from hubquant.convert.tables import Row, norm

ATTENTION: tuple[Row, ...] = (
    norm("input_layernorm"),
    *decoder.attention(bias=True),
    norm("post_attention_layernorm"),
)
QWEN2 = Architecture(
    name="qwen2",
    classes={"Qwen2ForCausalLM": "qwen2"},
    restored_as="qwen2",
    rules=(*decoder.RULES_OF_WHOLE_HEADS, Rope(), QWEN_WINDOW),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*ATTENTION, *decoder.gated_mlp()),
)
DOTS_OCR = replace(
    QWEN2,
    classes={"DotsOCRForCausalLM": "qwen2"},
    ignored=(*QWEN2.ignored, r"^vision_tower\."),
    own_code=True,
)
"""What reads in dots.ocr, whose config.json has the language model's settings at the top."""

"""What reads in PaddleOCR-VL: ERNIE 4.5 whose rope turns halves of a head, in sections; in text a Llama."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Fixed
from hubquant.convert.rules.sections import Sections
from hubquant.convert.tables import norm

PADDLEOCR = Architecture(
    name="paddleocr",
    classes={"PaddleOCRVLForConditionalGeneration": "llama"},
    restored_as="llama",
    rules=(
        *decoder.RULES,
        Rope(("default",)),
        Sections((16, 24, 24)),
        Fixed("use_bias", False),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
    ),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(
        norm("input_layernorm"),
        *decoder.attention(),
        norm("post_attention_layernorm"),
        *decoder.gated_mlp(),
    ),
)

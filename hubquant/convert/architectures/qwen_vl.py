"""The language models of Qwen2-VL, 2.5-VL and 3-VL: those of Qwen2 and Qwen3, with three positions for each token."""

from dataclasses import replace

from hubquant.convert.architecture import every_layer
from hubquant.convert.architectures import moe, qwen3
from hubquant.convert.architectures.qwen2 import QWEN2
from hubquant.convert.architectures.qwen3 import QWEN3
from hubquant.convert.architectures.qwen_moe import QWEN3_MOE
from hubquant.convert.rules.rule import Rule
from hubquant.convert.rules.sections import DeepstackLayers, Sections

_QWEN3: tuple[Rule, ...] = (Sections((24, 20, 20)), DeepstackLayers())

QWEN2_VL = replace(
    QWEN2,
    name="qwen2vl",
    classes={"Qwen2VLForConditionalGeneration": "qwen2", "Qwen2_5_VLForConditionalGeneration": "qwen2"},
    rules=(*QWEN2.rules, Sections((16, 24, 24))),
)
QWEN3_VL = replace(
    QWEN3,
    name="qwen3vl",
    classes={"Qwen3VLForConditionalGeneration": "qwen3"},
    rules=(*QWEN3.rules, *_QWEN3),
)
QWEN3_VL_MOE = replace(
    QWEN3_MOE,
    name="qwen3vlmoe",
    classes={"Qwen3VLMoeForConditionalGeneration": "qwen3_moe"},
    rules=(*QWEN3_MOE.rules, *_QWEN3),
    block=every_layer(*qwen3.ATTENTION, *moe.routed_stacked()),
)

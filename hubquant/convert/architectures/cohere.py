"""Command R (Cohere) and Command R7B (Cohere 2): attention and feed-forward layer side by side behind one norm."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import SILU, Epsilon, Fixed, Heads, Number, Rule
from hubquant.convert.rules.windows import Windows
from hubquant.convert.tables import Row, norm

_RULES: tuple[Rule, ...] = (
    *decoder.SIZES,
    Heads(whole=True),
    Rope(("default",)),
    Epsilon("attention.layer_norm_epsilon", "layer_norm_eps"),
    Number("logit_scale", "logit_scale"),
    Fixed("attention_bias", False),
    SILU,
    Fixed("tie_word_embeddings", True),
)
_BLOCK: tuple[Row, ...] = (
    norm("input_layernorm"),
    *decoder.attention(),
    *decoder.gated_mlp(),
)

COHERE = Architecture(
    name="command-r",
    classes={"CohereForCausalLM": "cohere"},
    restored_as="cohere",
    rules=(*_RULES, Fixed("use_qk_norm", False)),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*_BLOCK),
)
COHERE2 = Architecture(
    name="cohere2",
    classes={"Cohere2ForCausalLM": "cohere2"},
    restored_as="cohere2",
    rules=(*_RULES, Windows(period=4)),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*_BLOCK),
)

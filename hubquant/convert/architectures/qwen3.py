"""Qwen3: Qwen2 with norms on queries and keys instead of biases."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Fixed
from hubquant.convert.rules.windows import QWEN_WINDOW
from hubquant.convert.tables import Row, norm

ATTENTION: tuple[Row, ...] = (
    norm("input_layernorm"),
    *decoder.attention(),
    norm("self_attn.q_norm", "n_embd_head"),
    norm("self_attn.k_norm", "n_embd_head"),
    norm("post_attention_layernorm"),
)
QWEN3 = Architecture(
    name="qwen3",
    classes={"Qwen3ForCausalLM": "qwen3"},
    restored_as="qwen3",
    rules=(*decoder.RULES, Rope(), QWEN_WINDOW, Fixed("attention_bias", False)),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*ATTENTION, *decoder.gated_mlp()),
)

"""OLMo, whose norms have no weights; OLMo 2, whose norms stand behind attention and feed-forward layer; OLMo 3, with
windows.
"""

from dataclasses import replace

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.head_order import interleave_halves
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import SILU, Constant, Fixed, Heads, Number
from hubquant.convert.rules.windows import UnscaledInWindows, Windows
from hubquant.convert.tables import Embeddings, linear, norm
from hubquant.gguf_file.metadata import f32

OLMO = Architecture(
    name="olmo",
    classes={"OlmoForCausalLM": "olmo", "OLMoForCausalLM": "olmo"},
    restored_as="olmo",
    rules=(
        *decoder.SIZES,
        Heads(whole=True),
        Rope(),
        Constant("attention.layer_norm_epsilon", f32(1e-5)),
        Number("attention.clamp_kqv", "clip_qkv"),
        Fixed("attention_bias", False),
        SILU,
    ),
    dimensions=decoder.dimensions,
    outside=(Embeddings(),),
    block=every_layer(
        linear("self_attn.q_proj", "n_embd_q", "n_embd", operations=(interleave_halves("n_head"),)),
        linear("self_attn.k_proj", "n_embd_kv", "n_embd", operations=(interleave_halves("n_head_kv"),)),
        linear("self_attn.v_proj", "n_embd_kv", "n_embd"),
        linear("self_attn.o_proj", "n_embd", "n_embd_q"),
        *decoder.gated_mlp(),
    ),
)
OLMO2 = Architecture(
    name="olmo2",
    classes={"Olmo2ForCausalLM": "olmo2"},
    restored_as="olmo2",
    rules=(*decoder.RULES_OF_WHOLE_HEADS, Rope(), Fixed("attention_bias", False)),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=every_layer(
        *decoder.attention(),
        norm("self_attn.q_norm", "n_embd_q"),
        norm("self_attn.k_norm", "n_embd_kv"),
        norm("post_attention_layernorm"),
        *decoder.gated_mlp(),
        norm("post_feedforward_layernorm"),
    ),
)
OLMO3 = replace(
    OLMO2,
    classes={"Olmo3ForCausalLM": "olmo3"},
    restored_as="olmo3",
    rules=(
        *decoder.RULES_OF_WHOLE_HEADS,
        UnscaledInWindows(Rope(("default", "linear", "yarn"))),
        Windows(period=4),
        Fixed("attention_bias", False),
    ),
    marker="attention.sliding_window",
)

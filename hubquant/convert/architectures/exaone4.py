"""EXAONE 4: norms behind both halves of a layer and on queries and keys, windows in the largest model."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.rules.rope import Rope, rope_freqs
from hubquant.convert.rules.windows import Windows, WindowsOfLargest
from hubquant.convert.tables import norm

EXAONE4 = Architecture(
    name="exaone4",
    classes={"Exaone4ForCausalLM": "exaone4"},
    restored_as="exaone4",
    rules=(*decoder.RULES_OF_WHOLE_HEADS, Rope(("default", "llama3")), WindowsOfLargest(64, Windows(period=4))),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(
        *decoder.attention(),
        norm("self_attn.q_norm", "n_embd_head"),
        norm("self_attn.k_norm", "n_embd_head"),
        norm("post_attention_layernorm"),
        *decoder.gated_mlp(),
        norm("post_feedforward_layernorm"),
    ),
    constants=rope_freqs,
)

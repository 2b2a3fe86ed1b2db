"""Arcee's foundation models (AFM): Llama with a squared ReLU instead of the gated feed-forward layer."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, llama
from hubquant.convert.rules.rope import DYNAMIC, Rope, rope_freqs
from hubquant.convert.rules.rule import Epsilon, Fixed, Heads
from hubquant.convert.tables import linear

ARCEE = Architecture(
    name="arcee",
    classes={"ArceeForCausalLM": "arcee"},
    restored_as="arcee",
    rules=(
        *decoder.SIZES,
        Heads(),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        Fixed("hidden_act", "relu2"),
        Rope(("default", DYNAMIC, "linear", "yarn", "llama3")),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
    ),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(
        *llama.ATTENTION,
        linear("mlp.up_proj", "n_ff", "n_embd"),
        linear("mlp.down_proj", "n_embd", "n_ff"),
    ),
    constants=rope_freqs,
)

"""Jais 2: Llama with true layer norms, biases everywhere and a squared ReLU instead of the gated feed-forward layer."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Epsilon, Fixed, Heads
from hubquant.convert.tables import Embeddings, linear, norm

JAIS2 = Architecture(
    name="jais2",
    classes={"Jais2ForCausalLM": "jais2"},
    restored_as="jais2",
    rules=(
        *decoder.SIZES,
        Heads(),
        Rope(),
        Epsilon("attention.layer_norm_epsilon", "layer_norm_eps"),
        Fixed("hidden_act", "relu2"),
        Fixed("attention_bias", True),
        Fixed("mlp_bias", True),
    ),
    dimensions=decoder.dimensions,
    outside=(Embeddings(), norm("model.norm", bias=True)),
    block=every_layer(
        norm("input_layernorm", bias=True),
        *decoder.attention(bias=True, output_bias=True),
        norm("post_attention_layernorm", bias=True),
        linear("mlp.up_proj", "n_ff", "n_embd", bias=True),
        linear("mlp.down_proj", "n_embd", "n_ff", bias=True),
    ),
)

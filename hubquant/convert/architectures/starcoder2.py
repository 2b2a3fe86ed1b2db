"""StarCoder 2."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import GELU, Epsilon, Fixed, Heads
from hubquant.convert.rules.windows import DroppedWindow
from hubquant.convert.tables import Embeddings, linear, norm

STARCODER2 = Architecture(
    name="starcoder2",
    classes={"Starcoder2ForCausalLM": "starcoder2"},
    restored_as="starcoder2",
    rules=(
        *decoder.SIZES,
        Heads(whole=True),
        Rope(("default",)),
        DroppedWindow(),
        Epsilon("attention.layer_norm_epsilon", "norm_epsilon"),
        Fixed("use_bias", True),
        Fixed("hidden_act", "gelu_pytorch_tanh", same=GELU),
    ),
    dimensions=decoder.dimensions,
    outside=(Embeddings(), norm("model.norm", bias=True)),
    block=every_layer(
        norm("input_layernorm", bias=True),
        *decoder.attention(bias=True, output_bias=True),
        norm("post_attention_layernorm", bias=True),
        linear("mlp.c_fc", "n_ff", "n_embd", bias=True),
        linear("mlp.c_proj", "n_embd", "n_ff", bias=True),
    ),
)

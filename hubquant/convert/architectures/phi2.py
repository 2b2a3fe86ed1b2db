"""Phi-1, 1.5 and 2: attention and feed-forward layer side by side, biases everywhere, rope on a part of each head."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import GELU, Epsilon, Fixed, Heads
from hubquant.convert.tables import Embeddings, linear, norm

PHI2 = Architecture(
    name="phi2",
    classes={"PhiForCausalLM": "phi"},
    restored_as="phi",
    rules=(
        *decoder.SIZES,
        Heads(whole=True),
        Rope(("default",), partial=True),
        Epsilon("attention.layer_norm_epsilon", "layer_norm_eps"),
        Fixed("qk_layernorm", False),
        Fixed("hidden_act", "gelu_new", same=GELU),
    ),
    dimensions=decoder.dimensions,
    outside=(Embeddings(output_bias=True, both=True), norm("model.final_layernorm", bias=True)),
    block=every_layer(
        norm("input_layernorm", bias=True),
        linear("self_attn.q_proj", "n_embd_q", "n_embd", bias=True),
        linear("self_attn.k_proj", "n_embd_kv", "n_embd", bias=True),
        linear("self_attn.v_proj", "n_embd_kv", "n_embd", bias=True),
        linear("self_attn.dense", "n_embd", "n_embd_q", bias=True),
        linear("mlp.fc1", "n_ff", "n_embd", bias=True),
        linear("mlp.fc2", "n_embd", "n_ff", bias=True),
    ),
)

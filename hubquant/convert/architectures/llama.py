"""Llama 2, 3, 3.1 and 3.2."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.head_order import interleave_halves
from hubquant.convert.rules.rope import DYNAMIC, Rope, rope_freqs
from hubquant.convert.tables import Row, linear, norm

ATTENTION: tuple[Row, ...] = (
    norm("input_layernorm"),
    linear("self_attn.q_proj", "n_embd_q", "n_embd", "attention_bias", (interleave_halves("n_head"),)),
    linear("self_attn.k_proj", "n_embd_kv", "n_embd", "attention_bias", (interleave_halves("n_head_kv"),)),
    linear("self_attn.v_proj", "n_embd_kv", "n_embd", "attention_bias"),
    linear("self_attn.o_proj", "n_embd", "n_embd_q", "attention_bias"),
    norm("post_attention_layernorm"),
)
LLAMA = Architecture(
    name="llama",
    classes={"LlamaForCausalLM": "llama", "LLaMAForCausalLM": "llama"},
    restored_as="llama",
    rules=(*decoder.RULES, Rope(("default", DYNAMIC, "linear", "yarn", "llama3"))),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*ATTENTION, *decoder.gated_mlp(bias="mlp_bias")),
    constants=rope_freqs,
)

"""Apertus: Llama with norms of heads and xIELU, whose numbers each layer has learned."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.rules.by_layer import NumberOfLayers
from hubquant.convert.rules.rope import DYNAMIC, Rope, rope_freqs
from hubquant.convert.rules.rule import Epsilon, Fixed, Heads
from hubquant.convert.tables import linear, norm

_OF_XIELU = (("alpha_n", (1,)), ("alpha_p", (1,)), ("beta", ()), ("eps", ()))

APERTUS = Architecture(
    name="apertus",
    classes={"ApertusForCausalLM": "apertus"},
    restored_as="apertus",
    rules=(
        *decoder.SIZES,
        Heads(),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        Rope(("default", DYNAMIC, "linear", "yarn", "llama3")),
        *(NumberOfLayers(f"xielu.{name}", f"model.layers.{{}}.mlp.act_fn.{name}", shape) for name, shape in _OF_XIELU),
        Fixed("hidden_act", "xielu"),
        Fixed("attention_bias", False),
    ),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=every_layer(
        norm("attention_layernorm", stem="attn_norm"),
        *decoder.attention(),
        norm("self_attn.q_norm", "n_embd_head"),
        norm("self_attn.k_norm", "n_embd_head"),
        norm("feedforward_layernorm", stem="ffn_norm"),
        linear("mlp.up_proj", "n_ff", "n_embd"),
        linear("mlp.down_proj", "n_embd", "n_ff"),
    ),
    constants=rope_freqs,
)

"""Nemotron and Minitron: layer norms stored without their 1, squared ReLU, rope on a part of each head."""

from __future__ import annotations

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.operations import AddOne, always
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Epsilon, Fixed, Heads
from hubquant.convert.tables import Embeddings, Row, Tensors, linear


def _norm(name: str, stem: str) -> tuple[Row, ...]:
    return (
        Tensors((f"{name}.weight",), {f"{stem}.weight": ("n_embd",)}, (always(AddOne()),)),
        Tensors((f"{name}.bias",), {f"{stem}.bias": ("n_embd",)}),
    )


NEMOTRON = Architecture(
    name="nemotron",
    classes={"NemotronForCausalLM": "nemotron"},
    restored_as="nemotron",
    rules=(
        *decoder.SIZES,
        Heads(whole=True),
        Rope(("default", "linear"), partial=True),
        Epsilon("attention.layer_norm_epsilon", "norm_eps"),
        Fixed("hidden_act", "relu2"),
    ),
    dimensions=decoder.dimensions,
    outside=(Embeddings(both=True), *_norm("model.norm", "output_norm")),
    block=every_layer(
        *_norm("input_layernorm", "attn_norm"),
        *decoder.attention(bias="attention_bias", output_bias="attention_bias"),
        *_norm("post_attention_layernorm", "ffn_norm"),
        linear("mlp.up_proj", "n_ff", "n_embd", "mlp_bias"),
        linear("mlp.down_proj", "n_embd", "n_ff", "mlp_bias"),
    ),
)

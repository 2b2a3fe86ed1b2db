"""Seed-OSS: Qwen2 with heads of their own width."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Fixed
from hubquant.convert.tables import norm

SEED_OSS = Architecture(
    name="seed_oss",
    classes={"SeedOssForCausalLM": "seed_oss"},
    restored_as="seed_oss",
    rules=(*decoder.RULES, Rope(), Fixed("attention_out_bias", False), Fixed("mlp_bias", False)),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(
        norm("input_layernorm"),
        *decoder.attention(bias="attention_bias"),
        norm("post_attention_layernorm"),
        *decoder.gated_mlp(),
    ),
)

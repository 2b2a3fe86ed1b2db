"""StarCoder and SantaCoder (GPT-BigCode): GPT-2 with one head of keys and values for all queries."""

from dataclasses import replace
from functools import partial

from hubquant.convert.architectures import gpt2
from hubquant.convert.rules.rule import GELU, Constant, Fixed
from hubquant.convert.tables import linear
from hubquant.gguf_file.metadata import u32

STARCODER = replace(
    gpt2.GPT2,
    name="starcoder",
    classes={"GPTBigCodeForCausalLM": "gpt_bigcode"},
    restored_as="gpt_bigcode",
    rules=(
        *gpt2.SIZES,
        Constant("attention.head_count_kv", u32(1)),
        gpt2.EPSILON,
        Fixed("activation_function", "gelu_pytorch_tanh", same=GELU),
        Fixed("multi_query", True),
        Fixed("scale_attn_weights", True),
        Fixed("add_cross_attention", False),
    ),
    dimensions=partial(gpt2.dimensions, kv_heads=1),
    block=gpt2.block(partial(linear, bias=True)),
    renames=(),
    without_effect=("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"),
)

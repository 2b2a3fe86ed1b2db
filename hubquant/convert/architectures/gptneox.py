"""GPT-NeoX and Pythia: queries, keys and values of each head together, rope on a part of each head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.head_order import ungroup_heads
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import GELU, Epsilon, Fixed, Heads, Switch
from hubquant.convert.tables import Embeddings, linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return {**decoder.dimensions(config), "n_qkv": 3 * config.hidden_size, "one": 1}


GPTNEOX = Architecture(
    name="gptneox",
    classes={"GPTNeoXForCausalLM": "gpt_neox"},
    restored_as="gpt_neox",
    rules=(
        *decoder.SIZES,
        Heads(whole=True),
        Rope(("default",), partial=True),
        Epsilon("attention.layer_norm_epsilon", "layer_norm_eps"),
        Switch("use_parallel_residual", "use_parallel_residual"),
        Fixed("attention_bias", True),
        Fixed("hidden_act", "gelu", same=GELU),
    ),
    dimensions=_dimensions,
    outside=(
        Embeddings("gpt_neox.embed_in", "embed_out", module="lm_head", both=True),
        norm("gpt_neox.final_layer_norm", bias=True),
    ),
    block=every_layer(
        norm("input_layernorm", bias=True),
        linear("attention.query_key_value", "n_qkv", "n_embd", bias=True, operations=(ungroup_heads("n_head", "one"),)),
        linear("attention.dense", "n_embd", "n_embd", bias=True),
        norm("post_attention_layernorm", bias=True),
        linear("mlp.dense_h_to_4h", "n_ff", "n_embd", bias=True),
        linear("mlp.dense_4h_to_h", "n_embd", "n_ff", bias=True),
    ),
    blocks="gpt_neox.layers",
    without_effect=("is_decoder",),
    ignored=(r"\.attention\.(masked_)?bias$", r"\.rotary_emb\.inv_freq$"),
)

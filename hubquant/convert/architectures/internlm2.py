"""InternLM2 and 2.5, whose code is not part of transformers: Llama with queries, keys and values in one matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.head_order import InterleaveHalves, ungroup_heads
from hubquant.convert.operations import Beside, Dimensions, Scale, split
from hubquant.convert.rules.rope import DYNAMIC, Rope
from hubquant.convert.rules.rule import Fixed
from hubquant.convert.tables import Embeddings, Tensors, linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = decoder.dimensions(config)
    return {**sizes, "n_queries": sizes["n_head"] // sizes["n_head_kv"]}


def _rotated(sizes: Dimensions) -> Beside:
    return Beside((InterleaveHalves(sizes["n_head"]), InterleaveHalves(sizes["n_head_kv"]), Scale((1.0,))))


INTERNLM2 = Architecture(
    name="internlm2",
    classes={"InternLM2ForCausalLM": "llama"},
    restored_as="llama",
    rules=(
        *decoder.RULES_OF_WHOLE_HEADS,
        Rope(("default", DYNAMIC)),
        Fixed("bias", False),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
    ),
    dimensions=_dimensions,
    outside=(Embeddings("model.tok_embeddings", "output", both=True), norm("model.norm")),
    block=every_layer(
        norm("attention_norm"),
        Tensors(
            ("attention.wqkv.weight",),
            {
                "attn_q.weight": ("n_embd_q", "n_embd"),
                "attn_k.weight": ("n_embd_kv", "n_embd"),
                "attn_v.weight": ("n_embd_kv", "n_embd"),
            },
            (ungroup_heads("n_head_kv", "n_queries"), split("n_embd_q", "n_embd_kv", "n_embd_kv"), _rotated),
        ),
        linear("attention.wo", "n_embd", "n_embd_q"),
        norm("ffn_norm"),
        linear("feed_forward.w1", "n_ff", "n_embd"),
        linear("feed_forward.w3", "n_ff", "n_embd"),
        linear("feed_forward.w2", "n_embd", "n_ff"),
    ),
    own_code=True,
)

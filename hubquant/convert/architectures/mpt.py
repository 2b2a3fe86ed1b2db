"""MPT: biases by distance (ALiBi) instead of positions, norms and matrices without biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.nested import Nested
from hubquant.convert.rules.rule import Computed, Constant, Count, Epsilon, Fixed, Number
from hubquant.convert.tables import Embeddings, linear, norm
from hubquant.gguf_file.metadata import f32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_STEEPEST = 8


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width, n_head = config.d_model, config.n_heads
    return {
        "n_vocab": config.vocab_size,
        "n_embd": width,
        "n_layer": config.n_layers,
        "n_ff": 4 * width,
        "n_head": n_head,
        "n_head_kv": n_head,
        "n_expert": 0,
        "n_qkv": 3 * width,
    }


MPT = Architecture(
    name="mpt",
    classes={"MptForCausalLM": "mpt", "MPTForCausalLM": "mpt"},
    restored_as="mpt",
    rules=(
        Count("vocab_size", "vocab_size"),
        Count("context_length", "max_seq_len", most=(1 << 31) - 1),
        Count("embedding_length", "d_model"),
        Count("block_count", "n_layers", most=10_000),
        Computed("feed_forward_length", "", lambda config: 4 * config.d_model),
        Count("attention.head_count", "n_heads", most=1 << 16),
        Epsilon("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        Constant("attention.max_alibi_bias", f32(_STEEPEST)),
        Nested(
            "attn_config",
            (
                Number("attention.clamp_kqv", "clip_qkv"),
                Fixed("attn_type", "multihead_attention"),
                Fixed("softmax_scale", None),
                *(Fixed(name, False) for name in ("prefix_lm", "qk_ln", "attn_uses_sequence_id")),
                Fixed("alibi", True),
                Fixed("alibi_bias_max", _STEEPEST),
            ),
        ),
        Fixed("expansion_ratio", 4),
        Fixed("logit_scale", None),
        Fixed("no_bias", True),
    ),
    dimensions=_dimensions,
    outside=(Embeddings("transformer.wte"), norm("transformer.norm_f")),
    block=every_layer(
        norm("norm_1"),
        linear("attn.Wqkv", "n_qkv", "n_embd"),
        linear("attn.out_proj", "n_embd", "n_embd"),
        norm("norm_2"),
        linear("ffn.up_proj", "n_ff", "n_embd"),
        linear("ffn.down_proj", "n_embd", "n_ff"),
    ),
    blocks="transformer.blocks",
    without_effect=("learned_pos_emb", "emb_pdrop", "init_device", "embedding_fraction", "norm_type"),
)

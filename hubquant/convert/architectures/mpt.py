"""MPT: biases by distance (ALiBi) instead of positions, norms and matrices without biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rule import Computed, Count, Epsilon, Fixed, Rule, is_number, number, out_of_range
from hubquant.convert.tables import Embeddings, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, f32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_STEEPEST = 8


class _Attention(Rule):
    """Attention's own table of settings, of which only the clipping may be another than in the first MPT."""

    reads = ("attn_config",)
    fixed: Mapping[str, Any] = {
        "attn_type": "multihead_attention",
        "softmax_scale": None,
        "prefix_lm": False,
        "qk_ln": False,
        "attn_uses_sequence_id": False,
        "alibi": True,
        "alibi_bias_max": _STEEPEST,
    }

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        attention = config.attn_config
        for name, value in self.fixed.items():
            if (found := getattr(attention, name)) != value:
                raise NotSupportedYet(f"{name} {str(found)[:40]!r} in attn_config", why=f"transformers has {value!r}")
        limit = attention.clip_qkv
        if limit is not None and not (is_number(limit) and 0 < limit < 1e30):
            raise out_of_range("clip_qkv", limit, "a number above 0")
        clipped = {} if limit is None else {"attention.clamp_kqv": f32(limit)}
        return {"attention.max_alibi_bias": f32(_STEEPEST), **clipped}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {"attn_config": {"clip_qkv": number(metadata, "attention.clamp_kqv")}}


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
        _Attention(),
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

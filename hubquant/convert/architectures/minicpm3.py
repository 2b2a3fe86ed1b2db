"""MiniCPM3: latent attention whose keys and values are expanded, with MiniCPM's factors as llama.cpp has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, latent
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.longrope import LongRope, rope_factors, told_by_factors
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import SILU, Fixed, integer
from hubquant.convert.tables import linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class _Heads(latent.LatentHeads):
    """The ranks, and sizes of heads: values are as wide as the model, shared among the heads."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        heads, size = config.num_attention_heads, config.qk_nope_head_dim + config.qk_rope_head_dim
        if config.num_key_value_heads != heads:
            raise NotSupportedYet(f"{config.num_key_value_heads} key-value heads for {heads} heads")
        if config.q_lora_rank is None:
            raise NotSupportedYet("queries without q_lora_rank", why="llama.cpp expects it here")
        if config.v_head_dim * heads != config.hidden_size:
            raise NotSupportedYet(
                f"v_head_dim {config.v_head_dim}", why=f"llama.cpp takes {config.hidden_size // heads} here"
            )
        return {
            "attention.head_count": u32(heads),
            "attention.head_count_kv": u32(heads),
            "attention.q_lora_rank": u32(config.q_lora_rank),
            "attention.kv_lora_rank": u32(config.kv_lora_rank),
            "attention.key_length": u32(size),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        heads, rope = integer(metadata, "attention.head_count"), integer(metadata, "rope.dimension_count") or 0
        return {
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "q_lora_rank": integer(metadata, "attention.q_lora_rank"),
            "kv_lora_rank": integer(metadata, "attention.kv_lora_rank"),
            "qk_rope_head_dim": rope,
            "qk_nope_head_dim": (integer(metadata, "attention.key_length") or rope) - rope,
        }


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = {**decoder.dimensions(config), **latent.dimensions(config)}
    expanded = config.num_attention_heads * (config.qk_nope_head_dim + config.v_head_dim)
    return {**sizes, "n_head_kv": config.num_attention_heads, "n_expanded": expanded}


MINICPM3 = Architecture(
    name="minicpm3",
    classes={"MiniCPM3ForCausalLM": "minicpm3"},
    restored_as="minicpm3",
    rules=(
        *decoder.SIZES,
        _Heads(),
        LongRope(Rope(("default",))),
        latent.LatentEpsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        Fixed("scale_emb", 12),
        Fixed("scale_depth", 1.4),
        Fixed("dim_model_base", 256),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
        SILU,
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(
        norm("input_layernorm"),
        *latent.COMPRESSED_QUERIES,
        *latent.COMPRESSED_KEYS,
        linear("self_attn.kv_b_proj", "n_expanded", "n_lora_kv"),
        linear("self_attn.o_proj", "n_embd", "n_values"),
        norm("post_attention_layernorm"),
        *decoder.gated_mlp(),
    ),
    constants=rope_factors,
    told_by_tensors=told_by_factors,
    without_effect=("head_dim",),  # the config class makes it of the rotated part
)

"""Multi-head latent attention (https://arxiv.org/abs/2405.04434, section 2.1), which llama.cpp computes as attention
with one key-value head: keys and values stay compressed, queries and results are transformed instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rule import Epsilon, Rule, Settings, check_count, integer, out_of_range
from hubquant.convert.tables import Place, Row, TapFor, Tensors, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32
from hubquant.models.taps.latent import LatentMeans
from hubquant.models.taps.tap import ModuleOutput, Tap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_WITHOUT_QUERY_RANK = (26, 27)  # layers of the models that llama.cpp expects without


@dataclass(frozen=True)
class SplitLatent:
    """The matrix that expands latents becomes one for keys, transposed, and one for values.

    [heads * (key + value), rank] -> [heads, rank, key] and [heads, value, rank]
    """

    heads: int
    key: int
    value: int

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        (x,) = tensors
        keys, values = x.reshape(self.heads, -1, x.shape[-1]).split_with_sizes([self.key, self.value], dim=1)
        return [keys.transpose(1, 2), values]

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        import torch

        keys, values = tensors
        return [torch.cat([keys.transpose(1, 2), values], dim=1).reshape(-1, values.shape[-1])]


@dataclass(frozen=True)
class LatentHeads(Rule):
    """The heads' number, the ranks, and the sizes of heads compressed and expanded (``*_mla``).

    Without ``query_rank`` llama.cpp computes queries that are not compressed, in models of any depth.
    """

    query_rank: bool = True
    reads = (
        *("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
        *("num_attention_heads", "num_key_value_heads"),
    )

    def check(self, settings: Settings) -> None:
        for setting in self.reads:
            check_count(settings, setting, 1 << 20)
        if (settings.get("qk_rope_head_dim") or 0) % 2:
            raise out_of_range("qk_rope_head_dim", settings["qk_rope_head_dim"], "even, because rope rotates pairs")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if config.num_key_value_heads != config.num_attention_heads:
            raise NotSupportedYet(
                f"{config.num_key_value_heads} key-value heads for {config.num_attention_heads} heads",
                why="latent attention has one for each",
            )
        if config.q_lora_rank is None and self.query_rank and config.num_hidden_layers not in _WITHOUT_QUERY_RANK:
            raise NotSupportedYet(
                f"{config.num_hidden_layers} layers without q_lora_rank",
                why="llama.cpp expects it except in models of 26 or 27 layers",
            )
        if config.q_lora_rank is not None and not self.query_rank:
            raise NotSupportedYet(f"q_lora_rank {config.q_lora_rank}", why="llama.cpp compresses no queries here")
        rank, rope = config.kv_lora_rank, config.qk_rope_head_dim
        query = {} if config.q_lora_rank is None else {"attention.q_lora_rank": u32(config.q_lora_rank)}
        return query | {
            "attention.head_count": u32(config.num_attention_heads),
            "attention.head_count_kv": u32(1),
            "attention.kv_lora_rank": u32(rank),
            "attention.key_length": u32(rank + rope),
            "attention.value_length": u32(rank),
            "attention.key_length_mla": u32(config.qk_nope_head_dim + rope),
            "attention.value_length_mla": u32(config.v_head_dim),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        length = integer(metadata, "attention.key_length_mla")
        if length is None:
            raise NotSupportedYet(
                "a file from before latent attention", hint="convert the model again from its safetensors"
            )
        heads, rope = integer(metadata, "attention.head_count"), integer(metadata, "rope.dimension_count") or 0
        return {
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "q_lora_rank": integer(metadata, "attention.q_lora_rank"),
            "kv_lora_rank": integer(metadata, "attention.kv_lora_rank"),
            "qk_rope_head_dim": rope,
            "qk_nope_head_dim": length - rope,
            "v_head_dim": integer(metadata, "attention.value_length_mla"),
        }


@dataclass(frozen=True)
class LatentEpsilon(Epsilon):
    """The norms' epsilon, which llama.cpp has in latents (``where``) too, where transformers always has 1e-6.

    Up to 1e-5, as models have it, that is no difference.
    """

    where: str = "latents"
    most = 1e-5

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        value = getattr(config, self.setting)
        if value > self.most:
            raise NotSupportedYet(
                f"{self.setting} {value}", why=f"transformers computes {self.where} with 1e-6 all the same"
            )
        return super().metadata(config)


def dimensions(config: PreTrainedConfig) -> Dimensions:
    """Sizes of the attention by llama.cpp's names; those ending in s are of all heads side by side."""
    heads, rope, nope, value = (
        config.num_attention_heads,
        config.qk_rope_head_dim,
        config.qk_nope_head_dim,
        config.v_head_dim,
    )
    return {
        "n_head": heads,
        "n_head_kv": 1,
        "n_lora_q": config.q_lora_rank or 0,
        "n_lora_kv": config.kv_lora_rank,
        "n_latent": config.kv_lora_rank + rope,
        "n_nope": nope,
        "n_value": value,
        "n_queries": heads * (nope + rope),
        "n_values": heads * value,
    }


def _split(sizes: Dimensions) -> SplitLatent:
    return SplitLatent(sizes["n_head"], sizes["n_nope"], sizes["n_value"])


def _queries(config: PreTrainedConfig) -> TapFor:
    """The part of each head's query without position, which llama.cpp multiplies by the head's key matrix."""
    module = "self_attn.q_proj" if config.q_lora_rank is None else "self_attn.q_b_proj"
    return lambda place: ModuleOutput(place.prefix + module, place.dimensions["n_head"], place.dimensions["n_nope"])


def _latent_means(place: Place) -> Tap:
    return LatentMeans(f"{place.prefix}self_attn", "kv_b_proj")


COMPRESSED_QUERIES: tuple[Row, ...] = (
    linear("self_attn.q_a_proj", "n_lora_q", "n_embd"),
    norm("self_attn.q_a_layernorm", "n_lora_q"),
    linear("self_attn.q_b_proj", "n_queries", "n_lora_q"),
)
COMPRESSED_KEYS: tuple[Row, ...] = (
    linear("self_attn.kv_a_proj_with_mqa", "n_latent", "n_embd"),
    norm("self_attn.kv_a_layernorm", "n_lora_kv"),
)


def attention(config: PreTrainedConfig) -> tuple[Row, ...]:
    whole: tuple[Row, ...] = (linear("self_attn.q_proj", "n_queries", "n_embd"),)
    return (
        *(whole if config.q_lora_rank is None else COMPRESSED_QUERIES),
        *COMPRESSED_KEYS,
        Tensors(
            ("self_attn.kv_b_proj.weight",),
            {
                "attn_k_b.weight": ("n_head", "n_lora_kv", "n_nope"),
                "attn_v_b.weight": ("n_head", "n_value", "n_lora_kv"),
            },
            (_split,),
            taps=(_queries(config), _latent_means),
        ),
        linear("self_attn.o_proj", "n_embd", "n_values"),
    )


def between_norms(config: PreTrainedConfig) -> tuple[Row, ...]:
    """The attention of a layer with the norms before it and before what follows."""
    return (norm("input_layernorm"), *attention(config), norm("post_attention_layernorm"))

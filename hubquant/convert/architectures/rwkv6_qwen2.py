"""Qwen 2 with RWKV 6 in the place of attention (QRWKV6, https://arxiv.org/abs/2505.03005), whose code is not part of
transformers: Qwen 2's config stands for its own. Keys are times 1 less what the state keeps, and heads have no norm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, mamba, rwkv
from hubquant.convert.operations import Dimensions, Each, OperationFor, Transpose, always
from hubquant.convert.rules.rule import (
    SILU,
    Computed,
    Constant,
    Epsilon,
    Fixed,
    Heads,
    Rule,
    Settings,
    head_size,
    integer,
    key_value_heads,
)
from hubquant.convert.tables import Row, Tensors, linear, norm
from hubquant.gguf_file.metadata import Metadata, u32

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_WIDE = 4096  # from which on the matrices have twice the rank, where config.json tells none
_ON, _OFF = ("balance_state", "use_tokenshift"), ("use_rope", "groupnorm_att", "attention_output_bias")


@dataclass(frozen=True)
class _FirstFourth(Each):
    """x [5 * n, …]: the first and the fourth of five parts change places."""

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(5, -1, *x.shape[1:])[[3, 1, 2, 0, 4]].reshape(x.shape)

    back = there


class _Heads(Rule):
    """Heads that are together as wide as the model; groups of them share what the states are made of."""

    reads = Heads.reads

    def check(self, settings: Settings) -> None:
        Heads(whole=True).check(settings)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        Heads(whole=True).metadata(config)
        kv_heads = u32(key_value_heads(config))
        return {"wkv.head_size": u32(head_size(config)), "attention.head_count_kv": kv_heads}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        width, size = integer(metadata, "embedding_length") or 0, integer(metadata, "wkv.head_size") or 1
        heads = width // size
        return {
            "num_attention_heads": heads,
            "num_key_value_heads": integer(metadata, "attention.head_count_kv") or heads,
        }

    def notes(self, config: PreTrainedConfig) -> Iterator[str]:  # noqa: ARG002
        yield "the model's own code lets a state keep at least e^-5 of itself in each step, llama.cpp also less"


def _rank(config: PreTrainedConfig, setting: str) -> int:
    narrow = 32 if setting == "lora_rank_tokenshift" else 64
    return int(getattr(config, setting, None) or narrow * (1 + (config.hidden_size >= _WIDE)))


def _mix_rank(config: PreTrainedConfig) -> int:
    return _rank(config, "lora_rank_tokenshift")


def _decay_rank(config: PreTrainedConfig) -> int:
    return _rank(config, "lora_rank_decay")


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    mix = _mix_rank(config)
    ranks = {"n_mix": mix, "n_mixes": 5 * mix, "n_decay": _decay_rank(config), "one": 1, "five": 5}
    return {**decoder.dimensions(config), **ranks, "n_head": 0, "n_head_kv": 0}  # as RWKV 6


def _translated(settings: Settings) -> dict[str, Any]:
    return {"attention_bias": True, "tie_word_embeddings": False, **settings}


def _turned(name: str, shape: tuple[str, ...], *further: OperationFor) -> Row:
    return Tensors((f"self_attn.time_{name}",), {rwkv.NAMES6[name]: shape}, (always(Transpose()), *further))


_ORDERED = always(_FirstFourth())  # what goes into receptances, keys, values, decays and gates
RWKV6_QWEN2 = Architecture(
    name="rwkv6qwen2",
    classes={"RWKV6Qwen2ForCausalLM": "qwen2"},
    restored_as="qwen2",
    rules=(
        *mamba.SIZES,
        decoder.FEED_FORWARD,
        Constant("attention.head_count", u32(0)),
        Constant("token_shift_count", u32(1)),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        SILU,
        _Heads(),
        Computed("time_mix_extra_dim", "lora_rank_tokenshift", _mix_rank, most=1 << 16),
        Computed("time_decay_extra_dim", "lora_rank_decay", _decay_rank, most=1 << 16),
        Fixed("gate_rank_type", 1),
        *(Fixed(name, True) for name in _ON),
        *(Fixed(name, False) for name in _OFF),
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=every_layer(
        norm("input_layernorm"),
        rwkv.vector("self_attn.time_maa_x", "time_mix_lerp_x.weight"),
        rwkv.mixed("self_attn.time_maa_", "wkvrg", "five"),
        _turned("maa_w1", ("n_mixes", "n_embd"), _ORDERED),
        _turned("maa_w2", ("five", "n_embd", "n_mix"), _ORDERED),
        rwkv.vector("self_attn.time_decay", "time_mix_decay.weight"),
        _turned("decay_w1", ("n_decay", "n_embd")),
        _turned("decay_w2", ("n_embd", "n_decay")),
        linear("self_attn.q_proj", "n_embd", "n_embd", "attention_bias"),
        linear("self_attn.k_proj", "n_embd_kv", "n_embd", "attention_bias"),
        linear("self_attn.v_proj", "n_embd_kv", "n_embd", "attention_bias"),
        linear("self_attn.gate", "n_embd", "n_embd"),
        linear("self_attn.o_proj", "n_embd", "n_embd"),
        norm("post_attention_layernorm"),
        *decoder.gated_mlp(),
    ),
    translate=_translated,
    without_effect=(
        *("max_position_embeddings", "rope_parameters", "layer_types", "sliding_window"),
        *("use_sliding_window", "max_window_layers"),
    ),
    translated=("lora_rank_gate",),
    own_code=True,
)

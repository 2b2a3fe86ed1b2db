"""The encoders of T5 and UMT5, which read the prompts of many diffusion models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rule import GELU, Computed, Constant, Count, Epsilon, Fixed, Rule, Settings
from hubquant.convert.tables import Embeddings, Module, Place, Row, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, boolean, f32
from hubquant.models.taps.tap import Tap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_CONTEXT = 512  # tokens: attention knows distances only, and llama.cpp's converter takes so many where none are named
_GATED, _PLAIN = "gated-gelu", "relu"
_SECOND_BIAS = "enc.blk.1.attn_rel_b.weight"
_ATTENTION, _MLP = "layer.0.SelfAttention", "layer.1.DenseReluDense"


@dataclass(frozen=True)
class _SizeOfKeys(Count):
    """Keys and values are of one size."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        key = super().metadata(config)
        return {**key, "attention.value_length": key[self.key]}


@dataclass(frozen=True)
class _BothEpsilons(Epsilon):
    """llama.cpp's converter writes it for either kind of norm."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {**super().metadata(config), "attention.layer_norm_epsilon": f32(config.layer_norm_epsilon)}


@dataclass(frozen=True)
class _Activation(Rule):
    """GELU in a gated block, ReLU in one that is not: a file tells by whether it has a gate."""

    reads = ("feed_forward_proj", "dense_act_fn", "is_gated_act")

    def check(self, settings: Settings) -> None:
        if settings.get("feed_forward_proj") not in (None, _GATED, _PLAIN):
            raise self._other(settings["feed_forward_proj"])

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if config.dense_act_fn not in (GELU if config.is_gated_act else (_PLAIN,)):
            raise self._other(config.dense_act_fn)
        return {}

    def _other(self, value: object) -> NotSupportedYet:
        return NotSupportedYet(
            f"feed_forward_proj {str(value)[:40]!r}", why=f"llama.cpp computes {_GATED!r} or {_PLAIN!r} here"
        )


@dataclass(frozen=True)
class _Shared(Embeddings):
    """The embedding alone, which checkpoints have under one of two names, or both: nothing is predicted from it."""

    embedding: str = "shared"
    output: str = "encoder.embed_tokens"

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:  # noqa: ARG002
        return iter(())


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return {
        "n_vocab": config.vocab_size,
        "n_embd": config.d_model,
        "n_layer": config.num_layers,
        "n_ff": config.d_ff,
        "n_head": config.num_heads,
        "n_head_kv": config.num_heads,
        "n_expert": 0,
        "n_embd_qkv": config.num_heads * config.d_kv,
        "n_buckets": config.relative_attention_num_buckets,
    }


def _attention() -> tuple[Row, ...]:
    return (
        norm("layer.0.layer_norm"),
        *(linear(f"{_ATTENTION}.{name}", "n_embd_qkv", "n_embd") for name in "qkv"),
        linear(f"{_ATTENTION}.o", "n_embd", "n_embd_qkv"),
    )


def _mlp(config: PreTrainedConfig) -> tuple[Row, ...]:
    inner = ("wi_0", "wi_1") if config.is_gated_act else ("wi",)
    return (
        norm("layer.1.layer_norm"),
        *(linear(f"{_MLP}.{name}", "n_ff", "n_embd") for name in inner),
        linear(f"{_MLP}.wo", "n_embd", "n_ff"),
    )


_BIAS = Module(f"{_ATTENTION}.relative_attention_bias", ("n_buckets", "n_head"))


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    """All layers of T5 have the first one's bias."""
    return (*_attention(), *([] if layer else [_BIAS]), *_mlp(config))


def _block_with_bias(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:  # noqa: ARG001
    return (*_attention(), _BIAS, *_mlp(config))


def _told_by_tensors(tensors: Mapping[str, torch.Tensor], _settings: Settings) -> dict[str, Any]:
    return {"feed_forward_proj": _GATED if "enc.blk.0.ffn_gate.weight" in tensors else _PLAIN}


_COMMON: dict[str, Any] = {
    "name": "t5encoder",
    "rules": (
        Count("vocab_size", "vocab_size"),
        Computed("context_length", "n_positions", lambda config: getattr(config, "n_positions", None) or _CONTEXT),
        Count("embedding_length", "d_model"),
        Count("block_count", "num_layers", most=10_000),
        Count("feed_forward_length", "d_ff"),
        Count("attention.head_count", "num_heads", most=1 << 16),
        _SizeOfKeys("attention.key_length", "d_kv"),
        _BothEpsilons("attention.layer_norm_rms_epsilon", "layer_norm_epsilon"),
        Count("attention.relative_buckets_count", "relative_attention_num_buckets", most=1 << 16, least=4),
        Fixed("relative_attention_max_distance", 128),
        Fixed("is_decoder", False),
        _Activation(),
        Constant("attention.causal", boolean(False)),  # or llama_decode, unlike llama_encode, masks what comes later
    ),
    "dimensions": _dimensions,
    "outside": (_Shared(), norm("encoder.final_layer_norm")),
    "blocks": "encoder.block",
    "told_by_tensors": _told_by_tensors,
    "generates": False,
    "without_effect": ("dropout_rate", "initializer_factor", "num_decoder_layers"),
}
T5 = Architecture(
    **_COMMON,
    classes={
        "T5EncoderModel": "t5",
        "T5ForConditionalGeneration": "t5",
        "T5WithLMHeadModel": "t5",
        "MT5EncoderModel": "mt5",
        "MT5ForConditionalGeneration": "mt5",
    },
    restored_as="t5",
    block=_block,
)
UMT5 = Architecture(
    **_COMMON,
    classes=dict.fromkeys(("UMT5EncoderModel", "UMT5ForConditionalGeneration"), "umt5"),
    restored_as="umt5",
    block=_block_with_bias,
    marker=_SECOND_BIAS,
)

"""ModernBERT: an encoder with rotary positions, of which some layers see a window to both sides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gguf import PoolingType

from hubquant.convert.architecture import Architecture
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import (
    GELU,
    Constant,
    Count,
    Epsilon,
    Fixed,
    Rule,
    Settings,
    check_count,
    check_list,
    integer,
    out_of_range,
)
from hubquant.convert.rules.windows import FULL, SLIDING, RopeByLayer
from hubquant.convert.tables import Module, Row, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, boolean, string, strings, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_POOLINGS = {"cls": PoolingType.CLS, "mean": PoolingType.MEAN}
_PERIOD = 3  # where a file names none


@dataclass(frozen=True)
class _Heads(Count):
    """Heads that are together as wide as the model."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if config.hidden_size % config.num_attention_heads:
            whole = f"a multiple of the {config.num_attention_heads} attention heads"
            raise out_of_range("hidden_size", config.hidden_size, whole)
        return super().metadata(config)


@dataclass(frozen=True)
class _Windows(Rule):
    """The first layer of every so many sees the whole text, the others half of ``local_attention`` to each side."""

    reads = ("local_attention", "layer_types")

    def check(self, settings: Settings) -> None:
        check_count(settings, "local_attention", (1 << 31) - 1, least=2)
        check_list(settings, "layer_types")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        layers = list(config.layer_types)
        period = next((layer for layer in range(1, len(layers)) if layers[layer] == FULL), len(layers))
        if layers != _layers(config.num_hidden_layers, period):
            raise NotSupportedYet(
                "this order of windowed layers",
                why="llama.cpp gives the whole text to the first layer of every so many",
            )
        return {
            "attention.sliding_window": u32(config.local_attention),
            "attention.sliding_window_pattern": u32(period),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = min(integer(metadata, "block_count") or 0, 10_000)
        period = integer(metadata, "attention.sliding_window_pattern") or _PERIOD
        return {
            "local_attention": integer(metadata, "attention.sliding_window") or 128,
            "layer_types": _layers(n_layer, period),
        }


def _layers(n_layer: int, period: int) -> list[str]:
    return [SLIDING if layer % period else FULL for layer in range(n_layer)]


@dataclass(frozen=True)
class _Activation(Rule):
    """GELU, or SiLU in some of the kin."""

    reads = ("hidden_activation",)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if config.hidden_activation not in (*GELU, "silu"):
            raise NotSupportedYet(
                f"hidden_activation {str(config.hidden_activation)[:40]!r}", why="llama.cpp computes gelu or silu here"
            )
        return {"hidden_activation": string("silu" if config.hidden_activation == "silu" else "gelu")}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {"hidden_activation": metadata["hidden_activation"].value if "hidden_activation" in metadata else "gelu"}


@dataclass(frozen=True)
class _Rank(Rule):
    """One score of a pair of texts, by its first token or the mean of all."""

    reads = ("classifier_pooling",)

    def check(self, settings: Settings) -> None:
        if settings.get("classifier_pooling") not in (None, *_POOLINGS):
            raise out_of_range("classifier_pooling", settings["classifier_pooling"], " or ".join(_POOLINGS))

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {
            "pooling_type": u32(int(PoolingType.RANK)),
            "classifier.pooling_type": u32(int(_POOLINGS[config.classifier_pooling])),
            "classifier.output_labels": strings(("LABEL_0",)),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        of_first = integer(metadata, "classifier.pooling_type") == PoolingType.CLS
        return {"classifier_pooling": "cls" if of_first else "mean"}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return {
        "n_vocab": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        "n_ff": config.intermediate_size,
        "n_head": config.num_attention_heads,
        "n_head_kv": config.num_attention_heads,
        "n_expert": 0,
        "n_qkv": 3 * config.hidden_size,
        "n_ff_both": 2 * config.intermediate_size,
        "n_score": 1,
    }


def _block(_config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    """The first layer begins with what the norm of the embeddings gives."""
    return (
        *([norm("attn_norm")] if layer else []),
        linear("attn.Wqkv", "n_qkv", "n_embd"),
        linear("attn.Wo", "n_embd", "n_embd"),
        norm("mlp_norm"),
        linear("mlp.Wi", "n_ff_both", "n_embd"),
        linear("mlp.Wo", "n_embd", "n_ff"),
    )


MODERN_BERT = Architecture(
    name="modern-bert",
    classes=dict.fromkeys(("ModernBertModel", "ModernBertForMaskedLM"), "modernbert"),
    restored_as="modernbert",
    rules=(
        Count("vocab_size", "vocab_size"),
        Count("context_length", "max_position_embeddings", most=(1 << 31) - 1),
        Count("embedding_length", "hidden_size"),
        Count("block_count", "num_hidden_layers", most=10_000),
        Count("feed_forward_length", "intermediate_size"),
        _Heads("attention.head_count", "num_attention_heads", most=1 << 16),
        Epsilon("attention.layer_norm_epsilon", "norm_eps"),
        Constant("attention.causal", boolean(False)),
        RopeByLayer(Rope(("default",))),
        _Windows(),
        _Activation(),
        Fixed("head_dim", None),
        *(Fixed(name, False) for name in ("attention_bias", "mlp_bias", "norm_bias")),
    ),
    dimensions=_dimensions,
    outside=(
        Module("embeddings.tok_embeddings", ("n_vocab", "n_embd")),
        norm("embeddings.norm"),
        norm("final_norm"),
    ),
    block=_block,
    blocks="layers",
    ignored=(r"^head\.", r"^decoder\.", r"\.inv_freq$"),  # llama.cpp embeds without them
    renames=((r"^model\.", ""),),
    generates=False,
    without_effect=(
        *("initializer_cutoff_factor", "mlp_dropout", "decoder_bias", "cls_token_id", "sep_token_id"),
        *("classifier_pooling", "classifier_bias", "classifier_activation"),
        *("deterministic_flash_attn", "sparse_prediction", "sparse_pred_ignore_index"),
    ),
)
MODERN_BERT_RERANKER = replace(
    MODERN_BERT,
    classes={"ModernBertForSequenceClassification": "modernbert"},
    rules=(
        *MODERN_BERT.rules,
        _Rank(),
        Fixed("classifier_activation", "gelu", same=GELU),
        Fixed("classifier_bias", False),
    ),
    outside=(
        *MODERN_BERT.outside,
        Module("head.dense", ("n_embd", "n_embd"), stem="cls"),
        norm("head.norm", stem="cls.norm"),
        Module("classifier", ("n_score", "n_embd"), bias=True, stem="cls.output"),
    ),
    ignored=(*MODERN_BERT.ignored, r"^classifier\."),  # where it is run, the states of the encoder count
    marker="cls.output.weight",
    without_effect=tuple(name for name in MODERN_BERT.without_effect if not name.startswith("classifier_")),
)

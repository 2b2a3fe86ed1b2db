"""BERT and its RoBERTa kin: encoders for embeddings, which see the whole text at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gguf import PoolingType

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.operations import Dimensions, Each, Operation
from hubquant.convert.rules.rule import (
    GELU,
    Constant,
    Count,
    Epsilon,
    Fixed,
    Rule,
    Settings,
    check_count,
    head_size,
    out_of_range,
)
from hubquant.convert.tables import Module, Row, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, boolean, strings, u32
from hubquant.models.taps.tap import ModuleInput

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

# Older checkpoints call weights gamma and beta; those with a head put the encoder behind a prefix.
RENAMES = (
    (r"^(?:bert\.)?(.*)\.gamma$", r"\1.weight"),
    (r"^(?:bert\.)?(.*)\.beta$", r"\1.bias"),
    (r"^(?:bert|roberta)\.", ""),
)
HEADS = (r"^pooler\.", r"^cls\.", r"^lm_head\.", r"(^|\.)position_ids$")  # llama.cpp embeds without them

_FROM_PADDING = ("camembert", "jina_embeddings_v3", "roberta", "xlm-roberta")
"""Model types whose first position is the one after the padding token's id."""


@dataclass(frozen=True)
class WholeHeads(Rule):
    """Heads that are together as wide as the model."""

    reads = ("head_dim",)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if (size := head_size(config)) * config.num_attention_heads != config.hidden_size:
            raise NotSupportedYet(f"head_dim {size}", why="in llama.cpp heads are as wide as the model here")
        return {}


def _skipped(config: PreTrainedConfig) -> int:
    """Positions before the first that a text has, which a file does without."""
    return int(config.pad_token_id) + 1 if config.model_type in _FROM_PADDING else 0


@dataclass(frozen=True)
class Positions(Rule):
    """As many as a text may have."""

    reads = ("max_position_embeddings", "pad_token_id")

    def check(self, settings: Settings) -> None:
        check_count(settings, "max_position_embeddings", (1 << 31) - 1)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        most = config.max_position_embeddings - _skipped(config)
        if most < 1:
            raise out_of_range("max_position_embeddings", config.max_position_embeddings, "more than pad_token_id + 1")
        return {"context_length": u32(most)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        key = "context_length"
        return {"max_position_embeddings": metadata[key].value} if key in metadata else {}


@dataclass(frozen=True)
class _SkipRows(Each):
    """x [n, …] without its first ``skipped`` rows; back, zeros stand in their place."""

    skipped: int

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return x[self.skipped :]

    def back(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.cat([x.new_zeros(self.skipped, *x.shape[1:]), x]) if self.skipped else x


def _skip_positions(dimensions: Dimensions) -> Operation:
    return _SkipRows(dimensions["n_skipped"])


NO_OTHER = (Fixed("add_cross_attention", False), Fixed("position_embedding_type", "absolute"))
RULES: tuple[Rule, ...] = (
    Count("vocab_size", "vocab_size"),
    Positions(),
    Count("embedding_length", "hidden_size"),
    Count("block_count", "num_hidden_layers", most=10_000),
    Count("feed_forward_length", "intermediate_size"),
    Count("attention.head_count", "num_attention_heads", most=1 << 16),
    Epsilon("attention.layer_norm_epsilon", "layer_norm_eps"),
    Constant("attention.causal", boolean(False)),
)


def dimensions(config: PreTrainedConfig) -> Dimensions:
    return {
        "n_vocab": config.vocab_size,
        "n_positions": config.max_position_embeddings - _skipped(config),
        "n_skipped": _skipped(config),
        "n_types": config.type_vocab_size,
        "n_embd": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        "n_ff": config.intermediate_size,
        "n_head": config.num_attention_heads,
        "n_head_kv": config.num_attention_heads,
        "n_expert": 0,
        "n_qkv": 3 * config.hidden_size,
        "n_score": 1,
    }


def renamed_linear(name: str, rows: str, columns: str, module: str, *, bias: bool = False) -> Module:
    """A matrix of a model's own code by its name in the files, of which transformers calls the ``module`` of its layer
    otherwise."""
    return Module(
        name,
        (rows, columns),
        bias=bias,
        tap=lambda place: ModuleInput(place.prefix.removeprefix("encoder.") + module),
    )


def told_by_tensors(tensors: Mapping[str, torch.Tensor], _settings: Settings) -> dict[str, Any]:
    return {"type_vocab_size": len(tensors["token_types.weight"]) if "token_types.weight" in tensors else 2}


EMBEDDINGS: tuple[Row, ...] = (
    Module("embeddings.word_embeddings", ("n_vocab", "n_embd")),
    Module("embeddings.token_type_embeddings", ("n_types", "n_embd")),
)


@dataclass(frozen=True)
class Rank(Rule):
    """One score of a pair of texts, by its first token."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:  # noqa: ARG002
        return {"pooling_type": u32(int(PoolingType.RANK)), "classifier.output_labels": strings(("LABEL_0",))}

    def notes(self, config: PreTrainedConfig) -> Iterator[str]:
        if config.type_vocab_size > 1:
            yield (
                "scores come out otherwise than in transformers: llama.cpp gives both texts of a pair the first one's "
                f"kind of token (of {config.type_vocab_size})"
            )


BERT = Architecture(
    name="bert",
    classes={
        **dict.fromkeys(("BertModel", "BertForMaskedLM"), "bert"),
        **dict.fromkeys(("RobertaModel", "RobertaForMaskedLM"), "roberta"),
        **dict.fromkeys(("XLMRobertaModel", "XLMRobertaForMaskedLM"), "xlm-roberta"),
        **dict.fromkeys(("CamembertModel", "CamembertForMaskedLM"), "camembert"),
    },
    restored_as="bert",
    rules=(*RULES, Fixed("hidden_act", "gelu", same=GELU), Fixed("is_decoder", False), *NO_OTHER),
    dimensions=dimensions,
    outside=(
        *EMBEDDINGS,
        Module("embeddings.position_embeddings", ("n_positions", "n_embd"), operations=(_skip_positions,)),
        norm("embeddings.LayerNorm", bias=True),
    ),
    block=every_layer(
        linear("attention.self.query", "n_embd", "n_embd", bias=True),
        linear("attention.self.key", "n_embd", "n_embd", bias=True),
        linear("attention.self.value", "n_embd", "n_embd", bias=True),
        linear("attention.output.dense", "n_embd", "n_embd", bias=True),
        norm("attention.output.LayerNorm", bias=True),
        linear("intermediate.dense", "n_ff", "n_embd", bias=True),
        linear("output.dense", "n_embd", "n_ff", bias=True),
        norm("output.LayerNorm", bias=True),
    ),
    blocks="encoder.layer",
    ignored=HEADS,
    renames=RENAMES,
    told_by_tensors=told_by_tensors,
    layout=("type_vocab_size",),
    generates=False,
)
BERT_RERANKER = replace(
    BERT,
    classes={
        "BertForSequenceClassification": "bert",
        "RobertaForSequenceClassification": "roberta",
        "XLMRobertaForSequenceClassification": "xlm-roberta",
    },
    rules=(*BERT.rules, Rank()),
    outside=(
        *BERT.outside,
        Module("pooler.dense", ("n_embd", "n_embd"), bias=True, stem="cls"),
        Module("classifier", ("n_score", "n_embd"), bias=True, stem="cls.output"),
    ),
    ignored=(*HEADS, r"^classifier\."),  # where it is run, the states of the encoder count
    renames=(*RENAMES, (r"^classifier\.dense\.", "pooler.dense."), (r"^classifier\.out_proj\.", "classifier.")),
    marker="cls.output.weight",
)

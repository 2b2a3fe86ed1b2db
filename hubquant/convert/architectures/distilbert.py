"""DistilBERT: BERT without kinds of tokens, by other names; a file is one of BERT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import bert
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rule import GELU, Constant, Count, Fixed
from hubquant.convert.tables import Bundle, Module, Place, WithoutBias, linear, norm
from hubquant.gguf_file.metadata import boolean, f32
from hubquant.models.taps.tap import Tap

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return {
        "n_vocab": config.vocab_size,
        "n_positions": config.max_position_embeddings,
        "n_embd": config.dim,
        "n_layer": config.n_layers,
        "n_ff": config.hidden_dim,
        "n_head": config.n_heads,
        "n_head_kv": config.n_heads,
        "n_expert": 0,
    }


@dataclass(frozen=True)
class _OneKind(WithoutBias):
    """The one kind of token that llama.cpp wants to count, which adds nothing."""

    def bundles(self, place: Place) -> Iterator[Bundle]:
        yield Bundle((), {"token_types.weight": (1, place.dimensions["n_embd"])}, values=(0.0,))

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:  # noqa: ARG002
        return iter(())


DISTILBERT = Architecture(
    name="bert",
    classes=dict.fromkeys(("DistilBertModel", "DistilBertForMaskedLM"), "distilbert"),
    restored_as="bert",
    rules=(
        Count("vocab_size", "vocab_size"),
        bert.Positions(),
        Count("embedding_length", "dim"),
        Count("block_count", "n_layers", most=10_000),
        Count("feed_forward_length", "hidden_dim"),
        Count("attention.head_count", "n_heads", most=1 << 16),
        Constant("attention.layer_norm_epsilon", f32(1e-12)),  # no setting
        Constant("attention.causal", boolean(False)),
        Fixed("activation", "gelu", same=GELU),
    ),
    dimensions=_dimensions,
    outside=(
        Module("embeddings.word_embeddings", ("n_vocab", "n_embd")),
        _OneKind(),
        Module("embeddings.position_embeddings", ("n_positions", "n_embd")),
        norm("embeddings.LayerNorm", bias=True),
    ),
    block=every_layer(
        *(linear(f"attention.{name}_lin", "n_embd", "n_embd", bias=True) for name in ("q", "k", "v", "out")),
        norm("sa_layer_norm", bias=True),
        linear("ffn.lin1", "n_ff", "n_embd", bias=True),
        linear("ffn.lin2", "n_embd", "n_ff", bias=True),
        norm("output_layer_norm", bias=True),
    ),
    blocks="transformer.layer",
    ignored=(r"^vocab_", r"(^|\.)position_ids$"),  # llama.cpp embeds without them
    renames=((r"^distilbert\.", ""),),
    generates=False,
    without_effect=("sinusoidal_pos_embds", "dropout", "qa_dropout", "seq_classif_dropout"),
)

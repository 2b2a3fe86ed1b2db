"""What is different for encoders: how texts become their tokens, and what cannot be asked of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from hubquant.errors import UserError
from hubquant.recent import Recent
from hubquant.recipe.schema import Imatrix, Recipe, TextSource
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from hubquant.calibration import Chunks


_tokenized: Recent[tuple[Hashable, ...], Chunks] = Recent(64)  # each some 1 MB


def tokenized(
    component: Component, sources: Sequence[TextSource], chunk_size: int, chunks: int, seed: int = 0
) -> Chunks:
    """Chunks that ``component`` is run on: for an encoder none is longer than its context, and each is framed as
    a text of its own. Raises ``CalibrationError`` for too little text."""
    from hubquant.calibration.chunks import build, build_framed

    cut = build_framed if component.embeds else build
    n_tokens = chunk_tokens(component, chunk_size)

    def make() -> Chunks:
        return cut(sources, component.source.tokenizer(), n_tokens, chunks, seed)

    if any(source.bundled is None for source in sources):  # it may have changed
        return make()
    return _tokenized.get((component.source.content, tuple(sources), n_tokens, chunks, seed), make)


def chunk_tokens(component: Component, chunk_size: int) -> int:
    """Of a chunk when ``chunk_size`` are asked for."""
    limit = component.context_length if component.embeds else None
    return chunk_size if limit is None else min(chunk_size, limit)


def context_notes(component: Component, *chunk_sizes: int) -> list[str]:
    """Where chunks are shorter than they were asked for."""
    if all(chunk_tokens(component, size) == size for size in chunk_sizes):
        return []
    return [f"chunks have {component.context_length} tokens: more is not in the encoder's context"]


def check_measured(component: Component, recipe: Recipe, chunks: Chunks | None) -> None:
    """Raises ``UserError`` where the recipe asks for a measurement that the model cannot have, or for one of too few
    texts; ``chunks`` are those of the evaluation."""
    settings, name = recipe.evaluate, f"{component.conversion.architecture} models"
    if not component.embeds:
        others = {"cosine_mean": "encoders", "prediction_error": "diffusion models"}
        if gate := next((gate for gate in others if getattr(recipe.gates, gate)), None):
            raise UserError(
                f"gates.{gate} is for {others[gate]}, and {component.source.name} is none",
                why="of a language model the probabilities of tokens are compared",
                hint="use gates.kld_mean",
            )
        return
    asked = {
        "gates.kld_mean": bool(recipe.gates.kld_mean),
        "gates.prediction_error": bool(recipe.gates.prediction_error),
        "evaluate.margin": settings.margin is not None,
        "evaluate.way: streamed": settings.way == "streamed",
        "evaluate.engine: both": settings.engine == "both",
    }
    if wrong := next((field for field, is_asked in asked.items() if is_asked), None):
        raise UserError(
            f"{wrong} is not for {name}",
            why="an encoder predicts no next token: its embeddings are compared, by transformers",
            hint="use gates.cosine_mean" if wrong.startswith("gates") else f"leave {wrong.split(':')[0]} out",
        )
    if chunks is not None:
        check_texts(chunks)


def check_texts(chunks: Chunks) -> None:
    """Raises ``UserError`` where there are too few texts for pairs of them."""
    from hubquant.evaluate.similarity import LEAST_TEXTS

    if len(chunks) < LEAST_TEXTS:
        raise UserError(
            f"{len(chunks)} texts are too few to compare embeddings",
            why=f"the text makes so many chunks of {chunks.chunk_size} tokens, and pairs of {LEAST_TEXTS} or more are "
            "ranked",
            hint="use more text, more chunks, or set a smaller chunk_size",
        )


def pooling_note(component: Component) -> list[str]:
    """Where the model does not say what its embeddings are."""
    if not component.embeds or component.names_pooling:
        return []
    return ["the model names no pooling: its embeddings are measured as the mean of the tokens' states"]


def check_collects(component: Component, settings: Imatrix) -> None:
    """Raises ``UserError`` for settings of the matrix that an encoder cannot have."""
    if not component.embeds:
        return
    architecture = component.conversion.architecture
    if settings.process_output:
        raise UserError(
            f"{architecture} models have no output layer",
            why="an encoder ends with the states of its tokens",
            hint="leave imatrix.process_output out",
        )
    if settings.offload == "stream":
        raise UserError(
            f"{architecture} models are not streamed",
            why="an encoder is small, and run as a whole",
            hint="leave imatrix.offload out",
        )

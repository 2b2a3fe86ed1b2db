"""What is different for encoders: how texts become their tokens, and what cannot be asked of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from hubquant.errors import UserError
from hubquant.recent import Recent
from hubquant.recipe.schema import Imatrix, TextSource
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

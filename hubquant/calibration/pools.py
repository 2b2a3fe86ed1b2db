"""One part of texts to test on, and the rest to calibrate on, for several mixtures of the same or of other texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hubquant.calibration.chunks import Chunks, allocate, build, fingerprint_of_ids, spread
from hubquant.recipe.schema import TextSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Mix = Sequence[TextSource]


@dataclass(frozen=True)
class Pools:
    """``test`` is None where no chunk is kept for it; ``pools`` has the chunks of each mixture."""

    test: Chunks | None
    pools: tuple[Chunks, ...]


def divide(
    mixes: Sequence[Mix], tokenizer: PreTrainedTokenizerBase, chunk_size: int, n_test: int, n_pool: int, seed: int
) -> Pools:
    """The first chunks of every text are for the test, ``n_test`` of all texts together and at most half of each, in
    proportion to the weights in all ``mixes``; the later ones are the pool, of which a mixture gets at most ``n_pool``
    by its own weights. Every beginning of a pool holds its texts in nearly the same proportions.

    A text that stands in several mixes is one. Raises ``CalibrationError`` for too little text.
    """
    weights: dict[TextSource, float] = {}
    for mix in mixes:
        whole = sum(source.weight for source in mix)
        for source in mix:
            weights[_text(source)] = weights.get(_text(source), 0.0) + source.weight / whole
    parts = {text: build([text], tokenizer, chunk_size, n_test + n_pool, seed) for text in weights}
    kept = allocate(n_test, list(weights.values()), [len(part) // 2 for part in parts.values()])
    first = dict(zip(parts, kept, strict=True))
    test = _mixed([parts[text].ids[:n] for text, n in first.items()], [parts[text] for text in parts])
    rest = {text: part.ids[first[text] :] for text, part in parts.items()}
    return Pools(test if n_test else None, tuple(_pool(mix, rest, parts, n_pool) for mix in mixes))


def _pool(mix: Mix, rest: dict[TextSource, torch.Tensor], parts: dict[TextSource, Chunks], n: int) -> Chunks:
    texts = [_text(source) for source in mix]
    shares = allocate(n, [source.weight for source in mix], [len(rest[text]) for text in texts])
    return _mixed(
        [rest[text][:share] for text, share in zip(texts, shares, strict=True)], [parts[text] for text in texts]
    )


def _mixed(rows: Sequence[torch.Tensor], parts: Sequence[Chunks]) -> Chunks:
    shares = [len(each) for each in rows]
    ids = torch.cat(list(rows))[spread(shares)].contiguous()
    return Chunks(ids, tuple(name for part in parts for name in part.datasets), tuple(shares), fingerprint_of_ids(ids))


def _text(source: TextSource) -> TextSource:
    """Whatever its weight is."""
    return source.model_copy(update={"weight": 1.0, "name": None})

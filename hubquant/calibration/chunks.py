"""Chunks of tokens, cut and mixed from text sources."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hubquant.calibration.tokens import Frame, SourceTokens, bos_token, tokenize
from hubquant.errors import CalibrationError
from hubquant.recipe.schema import TextSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_CHUNKS = 2  # llama-imatrix refuses fewer


@dataclass(frozen=True, eq=False)
class Chunks:
    """``ids``: int64 [chunks, chunk_size], the first of each row replaced by BOS when the tokenizer adds one; of an
    encoder each row is a text between [CLS] and [SEP].

    ``datasets`` are the sources' names and ``shares`` the chunks each of them gave, empty where that is not known.
    ``fingerprint`` is the sha256 of the ids and their shape.
    """

    ids: torch.Tensor
    datasets: tuple[str, ...]
    shares: tuple[int, ...]
    fingerprint: str

    @property
    def chunk_size(self) -> int:
        return self.ids.shape[1]

    @property
    def n_tokens(self) -> int:
        return self.ids.numel()

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, numbers: Sequence[int]) -> Chunks:
        """Some of the chunks."""
        ids = self.ids[list(numbers)]
        return Chunks(ids, self.datasets, (), fingerprint_of_ids(ids))

    def spread(self, most: int) -> Chunks:
        """At most so many of the chunks, from the beginning of the text to its end."""
        n = min(most, len(self))
        return self.part([i * len(self) // n for i in range(n)])


def build(
    sources: Sequence[TextSource], tokenizer: PreTrainedTokenizerBase, chunk_size: int, chunks: int, seed: int
) -> Chunks:
    """At most ``chunks`` chunks of ``chunk_size`` tokens, each of one source, in proportion to the sources' weights.

    What a source has too little of comes from the others. The chunks of the sources are spread evenly over the whole.
    The same sources, tokenizer and ``seed`` give the same ids. Raises ``CalibrationError`` for too little text.
    """
    ids, shares = _mix(sources, tokenizer, chunk_size, chunks, seed, add_special=True)
    bos = bos_token(tokenizer)
    if bos is not None:
        ids[:, 0] = bos
    return _named(sources, ids, shares)


def build_framed(
    sources: Sequence[TextSource], tokenizer: PreTrainedTokenizerBase, chunk_size: int, chunks: int, seed: int
) -> Chunks:
    """As :func:`build`, for an encoder: the text is cut so that each chunk has ``chunk_size`` tokens with [CLS] and
    [SEP], or whatever the tokenizer puts around a text, as llama.cpp does when it embeds one."""
    frame = Frame.of(tokenizer)
    if chunk_size <= len(frame):
        raise CalibrationError(
            f"{chunk_size} tokens have no room for a text", why=f"{len(frame)} of them begin and end one"
        )
    inside, shares = _mix(sources, tokenizer, chunk_size - len(frame), chunks, seed, add_special=False)
    before, after = (
        torch.tensor(ids, dtype=torch.int64).expand(len(inside), -1) for ids in (frame.before, frame.after)
    )
    return _named(sources, torch.cat([before, inside, after], dim=1), shares)


def _named(sources: Sequence[TextSource], ids: torch.Tensor, shares: Sequence[int]) -> Chunks:
    return Chunks(ids, tuple(source.display_name for source in sources), tuple(shares), fingerprint_of_ids(ids))


def _mix(
    sources: Sequence[TextSource],
    tokenizer: PreTrainedTokenizerBase,
    chunk_size: int,
    chunks: int,
    seed: int,
    *,
    add_special: bool,
) -> tuple[torch.Tensor, list[int]]:
    """Ids [chunks, chunk_size] and how many chunks each source gave."""
    weights = [source.weight for source in sources]
    limits: list[int | None] = [None] * len(sources)
    parts: list[SourceTokens | None] = [None] * len(sources)
    while True:
        shares = allocate(chunks, weights, limits)
        for i, source in enumerate(sources):
            part, needed = parts[i], max(shares[i], 1) * chunk_size
            if part is None or (len(part.ids) < needed and not part.complete):
                parts[i] = part = tokenize(source, tokenizer, needed, seed, add_special=add_special)
                _check_source(source, part, chunk_size)
            if part.complete:
                limits[i] = len(part.ids) // chunk_size
        if all(limit is None or share <= limit for share, limit in zip(shares, limits, strict=True)):
            break
    _check_total(sources, [part for part in parts if part], sum(shares), chunk_size, chunks)
    rows = [
        torch.tensor(part.ids[: share * chunk_size], dtype=torch.int64).reshape(share, chunk_size)
        for part, share in zip(parts, shares, strict=True)
        if part is not None
    ]
    return torch.cat(rows)[spread(shares)].contiguous(), shares


def allocate(total: int, weights: Sequence[float], limits: Sequence[int | None]) -> list[int]:
    """Split ``total`` in proportion to ``weights`` by largest remainders; what exceeds a limit goes to the others."""
    shares = [0] * len(weights)
    open_ = set(range(len(weights)))
    while open_:
        left = total - sum(shares[i] for i in range(len(weights)) if i not in open_)
        exact = {i: left * weights[i] / sum(weights[j] for j in open_) for i in open_}
        for i in open_:
            shares[i] = int(exact[i])
        by_remainder = sorted(open_, key=lambda i: (shares[i] - exact[i], i))
        for i in by_remainder[: left - sum(int(exact[i]) for i in open_)]:
            shares[i] += 1
        full = {i for i in open_ if (limit := limits[i]) is not None and shares[i] > limit}
        if not full:
            break
        for i in full:
            shares[i] = limits[i] or 0
        open_ -= full
    return shares


def spread(shares: Sequence[int]) -> torch.Tensor:
    """Order in which every beginning of the whole holds the sources in nearly the same proportions."""
    starts = [sum(shares[:i]) for i in range(len(shares))]
    return torch.tensor([starts[i] + k for i, k in _places(shares)], dtype=torch.int64)


def sources_of(shares: Sequence[int]) -> list[int]:
    """Of which source each chunk of a mixture is, by its number."""
    return [i for i, _ in _places(shares)]


def _places(shares: Sequence[int]) -> list[tuple[int, int]]:
    places = [((k + 0.5) / share, i, k) for i, share in enumerate(shares) for k in range(share)]
    return [(i, k) for _, i, k in sorted(places)]


def _check_source(source: TextSource, part: SourceTokens, chunk_size: int) -> None:
    if not part.complete or len(part.ids) >= chunk_size:
        return
    if len(part.ids) <= 1:
        raise CalibrationError(f"{source.display_name} is empty", hint="name a text with some content")
    raise CalibrationError(
        f"{source.display_name} is too short",
        why=f"it holds {len(part.ids):,} tokens, and one chunk takes {chunk_size:,}",
        hint="use more text, or set a smaller chunk_size",
    )


def _check_total(
    sources: Sequence[TextSource], parts: Sequence[SourceTokens], found: int, chunk_size: int, chunks: int
) -> None:
    least = min(LEAST_CHUNKS, chunks)
    if found < least:
        names = ", ".join(source.display_name for source in sources)
        raise CalibrationError(
            f"{names} is too short" if sources else "there is no text",
            why=f"{sum(len(part.ids) for part in parts):,} tokens, and {least * chunk_size:,} are needed "
            f"({least} chunks of {chunk_size:,})",
            hint="use more text, or set a smaller chunk_size",
        )


def fingerprint_of_ids(ids: torch.Tensor) -> str:
    """sha256 hex of token ids and their shape."""
    shape = "x".join(map(str, ids.shape))
    return hashlib.sha256(shape.encode() + b"\0" + ids.numpy().astype("<i4").tobytes()).hexdigest()

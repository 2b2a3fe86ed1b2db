"""Distributions in a compact form: the words that matter, and a sample of the others (see :mod:`.sampling`).

For each scored token ``head`` int32 words are kept and ``count − head`` drawn, all int32 [chunks, scored]; ``entries``
uint8 [sum of counts, 5] hold each: a little-endian integer of 40 bits, id + 2¹⁸ · code, where ln p = −2⁻¹⁷ · code.
``tail_mass`` and ``tail_span`` float32 are the sampled words' probability and range of ln p; ``nll``, ``entropy``
float32 and ``top`` int32 are exact. Probabilities below e⁻³² count as e⁻³².
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hubquant.devices import in_float64
from hubquant.evaluate.divergence import TokenStatistics
from hubquant.evaluate.sampling import SampledRow, SampleError, sample
from hubquant.evaluate.scoring import row_blocks

FORMAT = "hubquant compact baseline 1"
ENTRY = 5
ID_BITS = 18
STEP = 2.0**-17
LARGEST = 2**22 - 1
APART = 8
"""Where q of a word of the tail is so many times the mass of a draw, which no p of the tail is twice, the tail's q/p
vary too much for its known P − Q to be a guide."""

DTYPES = {
    "count": "<i4",
    "head": "<i4",
    "top": "<i4",
    "nll": "<f4",
    "entropy": "<f4",
    "tail_mass": "<f4",
    "tail_span": "<f4",
}


@dataclass(frozen=True)
class CompactChunk:
    """The scored rows of one chunk as they are stored, [n] each, and ``entries`` [sum of counts, 5]."""

    count: Tensor
    head: Tensor
    top: Tensor
    nll: Tensor
    entropy: Tensor
    tail_mass: Tensor
    tail_span: Tensor
    entries: Tensor

    def to_bytes(self) -> bytes:
        return b"".join(getattr(self, field.name).numpy().tobytes() for field in fields(self))

    @classmethod
    def from_bytes(cls, data: bytes, n: int) -> Self:
        """Of ``n`` rows. Raises ``ValueError`` for what is no chunk."""
        parts = [
            torch.from_numpy(np.frombuffer(data, dtype, n, 4 * n * i).copy()) for i, dtype in enumerate(DTYPES.values())
        ]
        entries = np.frombuffer(data, np.uint8, offset=4 * n * len(parts)).reshape(-1, ENTRY)
        return cls(*[*parts, torch.from_numpy(entries.copy())])

    @property
    def checksum(self) -> int:
        return zlib.crc32(self.to_bytes())


def encode(logits: Tensor, targets: Tensor, threshold: float, random: np.random.Generator) -> CompactChunk:
    """``logits`` [n, n_vocab] and the tokens [n] that follow; words below ``threshold`` are sampled."""
    parts: list[dict[str, Any]] = []
    for rows in row_blocks(logits):
        log_p = in_float64(logits[rows]).log_softmax(1)
        ordered, order = log_p.sort(dim=1, descending=True, stable=True)
        nll = -log_p.gather(1, targets[rows, None].to(log_p.device)).squeeze(1).float().cpu()
        entropy = -(log_p.exp() * log_p).sum(1).float().cpu()
        ordered, order = ordered.cpu(), order.cpu()
        for i, row in enumerate(ordered):
            found = sample(row, threshold, random)
            parts.append(
                {
                    "top": order[i, 0],
                    "nll": nll[i],
                    "entropy": entropy[i],
                    "found": found,
                    "entries": _entries(order[i, found.places], row[found.places]),
                }
            )
    found_rows: list[SampledRow] = [part["found"] for part in parts]
    return CompactChunk(
        count=torch.tensor([len(found.places) for found in found_rows], dtype=torch.int32),
        head=torch.tensor([found.head for found in found_rows], dtype=torch.int32),
        top=torch.stack([part["top"] for part in parts]).int(),
        nll=torch.stack([part["nll"] for part in parts]),
        entropy=torch.stack([part["entropy"] for part in parts]),
        tail_mass=torch.tensor([found.mass for found in found_rows], dtype=torch.float32),
        tail_span=torch.tensor([found.span for found in found_rows], dtype=torch.float32),
        entries=torch.cat([part["entries"] for part in parts]),
    )


def _entries(ids: Tensor, log_p: Tensor) -> Tensor:
    """uint8 [n, 5] of ``ids`` [n] and ``log_p`` [n]."""
    codes = (-log_p / STEP).round().clamp(0, LARGEST).long()
    numbers = ids | codes << ID_BITS
    return torch.stack([numbers >> 8 * byte & 0xFF for byte in range(ENTRY)], dim=1).to(torch.uint8)


def statistics(
    logits: Tensor, chunk: CompactChunk, ids: Tensor, codes: Tensor, targets: Tensor
) -> tuple[TokenStatistics, SampleError]:
    """Compare ``logits`` [n, n_vocab] with the rows of ``chunk``, whose entries are ``ids`` and ``codes`` [entries].

    With f = ln p − ln q the divergence is Σ p (f − 1 + 1/eᶠ), as p and q both have the sum 1; each term is positive and
    close to p f²/2, which hardly varies where p and q are close.
    """
    log_q = in_float64(logits).log_softmax(1)
    n = len(log_q)
    count, head = chunk.count.long(), chunk.head.long()
    rows = torch.repeat_interleave(torch.arange(n), count)
    place = torch.arange(len(rows)) - torch.repeat_interleave(count.cumsum(0) - count, count)
    in_head = place < head[rows]
    kept_q = log_q[rows.to(log_q.device), ids.to(log_q.device)].cpu()
    log_p = -STEP * codes.double()
    tail_mass = chunk.tail_mass.double()
    drawn = count - head
    mass = tail_mass / drawn.clamp(min=1)

    def total(values: Tensor, of: Tensor) -> Tensor:
        return torch.zeros(n, dtype=torch.float64).index_add_(0, rows[of], values[of])

    f = log_p - kept_q
    difference = -torch.expm1(-f)  # (p − q) / p
    p = log_p.exp()
    head_kld = total(p * (f - difference), in_head)
    excess = tail_mass - (1 - total(kept_q.exp(), in_head)).clamp(min=0.0)  # the tail's P − Q
    plain = head_kld - excess + mass * total(f, ~in_head)
    bold = head_kld + mass * total(f - difference, ~in_head)
    low, top = _tail_range(log_q, rows[in_head], ids[in_head])
    trust = _slope(total(p * f * difference, in_head), total(p * difference**2, in_head))
    trust = torch.where(top.exp() < APART * mass, trust, 0.0)
    kld = plain + trust * (bold - plain)

    expected = (tail_mass.clamp(min=1e-300).log() - (tail_mass - excess).clamp(min=1e-300).log())[rows]
    squares = mass**2 * total((f - expected) ** 2, ~in_head)
    nll = -log_q.gather(1, targets[:, None].to(log_q.device)).squeeze(1).cpu()
    nll_base = chunk.nll.double()
    tokens = TokenStatistics(
        nll=nll,
        nll_base=nll_base,
        kld=kld,
        delta_p=(-nll).exp() - (-nll_base).exp(),
        same_top=(log_q.argmax(1).cpu() == chunk.top).double(),
        entropy=chunk.entropy.double(),
    )
    reach = mass * (chunk.tail_span.double() + top - low)
    rounding = STEP / 2 * (total(p * f.abs(), in_head) + tail_mass)
    return tokens, SampleError(plain - kld, squares, torch.where(drawn > 0, reach, 0.0), rounding)


def _slope(product: Tensor, square: Tensor) -> Tensor:
    """Of f over (p − q)/p through the head, from 0 to 1: how far the tail's known P − Q is a guide to its divergence.
    No draw has a part in it, so that the estimate remains without bias."""
    return torch.where(square > 0, product / square.clamp(min=1e-300), 1.0).clamp(0.0, 1.0)


def _tail_range(log_q: Tensor, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest ln q [n], and the largest [n] of words that are not among ``ids`` of ``rows``."""
    low = log_q.amin(1)
    outside = log_q.index_put((rows.to(log_q.device), ids.to(log_q.device)), torch.tensor(-torch.inf).to(log_q))
    return low.cpu(), torch.maximum(outside.amax(1), low).cpu()


class CompactScores:
    """The scores of a stored baseline, read chunk by chunk."""

    def __init__(self, arrays: Mapping[str, np.ndarray[Any, Any]], n_vocab: int) -> None:
        self._arrays = arrays
        self.n_chunks, self.n_scored = arrays["count"].shape
        self.n_vocab = n_vocab
        self._ends = arrays["count"].astype(np.int64).cumsum().reshape(arrays["count"].shape)

    @property
    def all_nll(self) -> Tensor:
        return torch.from_numpy(np.array(self._arrays["nll"])).flatten()

    def top(self, chunk: int) -> Tensor:
        """The most probable tokens, int32 [n_scored]."""
        return torch.from_numpy(np.array(self._arrays["top"][chunk]))

    def checksum(self, chunk: int) -> int:
        """CRC-32 of a chunk's scores."""
        return self._read(chunk).checksum

    def problem(self, chunk: int) -> str | None:
        """What is wrong with a chunk, if its checksum is right."""
        found = self._read(chunk)
        ids, _ = _numbers(found.entries)
        return "has words outside of its vocabulary" if len(ids) and int(ids.max()) >= self.n_vocab else None

    def statistics(self, logits: Tensor, targets: Tensor, chunk: int) -> tuple[TokenStatistics, SampleError]:
        """Of ``logits`` [n_scored, n_vocab] and the tokens [n_scored] that follow."""
        found = self._read(chunk)
        ids, codes = _numbers(found.entries)
        ends = found.count.long().cumsum(0)
        parts = []
        for rows in row_blocks(logits):
            part = CompactChunk(*[*(getattr(found, name)[rows] for name in DTYPES), found.entries[:0]])
            first, last = int(ends[rows][0] - part.count[0]), int(ends[rows][-1])
            tokens, error = statistics(logits[rows], part, ids[first:last], codes[first:last], targets[rows])
            parts.append(torch.cat([tokens.stacked(), error.stacked()]))
        columns = torch.cat(parts, dim=1)
        return TokenStatistics(*columns[:-4]), SampleError(*columns[-4:])

    def _read(self, chunk: int) -> CompactChunk:
        ends, counts = self._ends[chunk], self._arrays["count"][chunk]
        entries = self._arrays["entries"][int(ends[0]) - int(counts[0]) : int(ends[-1])]
        return CompactChunk(
            *[
                *(torch.from_numpy(np.array(self._arrays[name][chunk])) for name in DTYPES),
                torch.from_numpy(np.array(entries)),
            ]
        )


def _numbers(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and codes, int64 [n], of ``entries`` uint8 [n, 5]."""
    numbers = sum(entries[:, byte].long() << 8 * byte for byte in range(ENTRY))
    assert isinstance(numbers, Tensor)
    return numbers & (1 << ID_BITS) - 1, numbers >> ID_BITS


def check_counts(arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Raises ``ValueError`` for numbers that contradict each other."""
    count, head, mass, entries = (arrays[name] for name in ("count", "head", "tail_mass", "entries"))
    if entries.shape[1] != ENTRY or int(count.sum(dtype=np.int64)) != len(entries):
        raise ValueError(f"its {list(entries.shape)} entries are not those that are counted")
    if not ((head >= 0) & (head <= count)).all():
        raise ValueError("its counts are not of words that were kept and drawn")
    if not ((mass >= 0) & (mass <= 1) & (arrays["tail_span"] >= 0)).all():
        raise ValueError("its tails have no probability")

"""llama-perplexity's own baselines, of ``--kl-divergence-base``.

``_logits_``; n_ctx, n_vocab, n_chunk int32; the token ids int32 [n_chunk, n_ctx]; then for each scored token (the
second half of a chunk) one record of n_vocab + 4 uint16, with one more where n_vocab is odd: the first four are two
float32, scale and minimum, the others codes of ln p = minimum + scale · code. Everything is little-endian. What is more
than e¹⁶ times less probable than the most probable token has the code 0; what is below e⁻¹⁶ is not counted.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hubquant.devices import in_float64
from hubquant.evaluate.divergence import TokenStatistics
from hubquant.evaluate.sampling import SampleError
from hubquant.evaluate.scoring import blocks_of, n_scored, row_blocks

MAGIC = b"_logits_"
HEADER = 20
LEVELS = 65535
RANGE = 16.0
"""Nats below the most probable token that are kept, and below certainty that are counted."""

LARGEST_VOCAB = 1 << 24


def record_size(n_vocab: int) -> int:
    """uint16 of one scored token."""
    return 2 * ((n_vocab + 1) // 2) + 4


def header(ids: Tensor, n_vocab: int) -> bytes:
    """What stands before the records of token ``ids``, int64 [chunks, chunk_size]."""
    n_chunks, chunk_size = ids.shape
    numbers = np.array([chunk_size, n_vocab, n_chunks], "<i4").tobytes()
    return MAGIC + numbers + ids.numpy().astype("<i4").tobytes()


def encode(logits: Tensor) -> bytes:
    """The records of ``logits`` [n, n_vocab]."""
    n_vocab = logits.shape[1]
    parts = []
    for rows in row_blocks(logits):
        values = logits[rows].float().cpu()
        top = values.amax(1)
        low = torch.maximum(values.amin(1), top - RANGE)
        sums = (values - top[:, None]).exp().double().sum(1).log().float()
        scale = (top - low) / LEVELS
        steps = (1 / torch.where(scale > 0, scale, 1.0))[:, None] * (values - low[:, None])
        codes = torch.where((scale > 0)[:, None], steps, 0.0).round().clamp(0, LEVELS)
        records = np.zeros((len(values), record_size(n_vocab)), "<u2")
        records[:, :4] = torch.stack([scale, low - top - sums], 1).numpy().astype("<f4").view("<u2")
        records[:, 4 : 4 + n_vocab] = codes.numpy().astype("<u2")
        parts.append(records.tobytes())
    return b"".join(parts)


class LlamaCppScores:
    """The scores of such a file, read chunk by chunk."""

    def __init__(self, ids: Tensor, records: np.ndarray[Any, Any], n_vocab: int) -> None:
        self.ids = ids
        self._records = records
        self.n_vocab = n_vocab
        self.n_chunks, self.n_scored, _ = records.shape

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises ``ValueError`` for a file that is not whole, and ``OSError``."""
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(HEADER)
            if len(start) < HEADER or not start.startswith(MAGIC):
                raise ValueError("it does not begin as one of llama-perplexity does")
            n_ctx, n_vocab, n_chunks = (int(number) for number in np.frombuffer(start, "<i4", offset=len(MAGIC)))
            if n_ctx < 3 or not 0 < n_vocab <= LARGEST_VOCAB or n_chunks < 0:
                raise ValueError(f"it is of {n_chunks} chunks of {n_ctx} tokens of a vocabulary of {n_vocab}")
            scored, width = n_scored(n_ctx), record_size(n_vocab)
            offset, chunk_bytes = HEADER + 4 * n_chunks * n_ctx, 2 * scored * width
            if size != offset + n_chunks * chunk_bytes:
                whole = max(0, size - offset) // chunk_bytes
                raise ValueError(
                    f"it has {whole} of its {n_chunks} chunks" if whole < n_chunks else "it goes on after its end"
                )
            ids = np.frombuffer(file.read(4 * n_chunks * n_ctx), "<i4").astype(np.int64).reshape(n_chunks, n_ctx)
        if ids.size and not (ids.min() >= 0 and ids.max() < n_vocab):
            raise ValueError(f"its tokens are not of a vocabulary of {n_vocab}")
        shape = (n_chunks, scored, width)
        records = np.memmap(path, "<u2", "r", offset, shape) if n_chunks else np.empty(shape, "<u2")
        return cls(torch.from_numpy(ids), records, n_vocab)

    @property
    def all_nll(self) -> Tensor:
        targets = self.ids[:, -self.n_scored :]
        return torch.cat([self.nll(chunk, targets[chunk]) for chunk in range(self.n_chunks)])

    def log_probs(self, chunk: int, rows: slice = slice(None)) -> Tensor:
        """ln p of the scored rows of a chunk, float32 [n, n_vocab]; the improbable are too probable."""
        records = self._records[chunk, rows]
        scale, minimum = torch.from_numpy(np.ascontiguousarray(records[:, :4]).view("<f4").copy()).unbind(1)
        codes = torch.from_numpy(records[:, 4 : 4 + self.n_vocab].astype(np.float32))
        return scale[:, None] * codes + minimum[:, None]

    def nll(self, chunk: int, targets: Tensor) -> Tensor:
        """-ln p of the tokens that follow, ``targets`` [n_scored]."""
        parts = [
            self.log_probs(chunk, rows).gather(1, targets[rows, None]).squeeze(1)
            for rows in blocks_of(self.n_scored, self.n_vocab)
        ]
        return -torch.cat(parts)

    def top(self, chunk: int) -> Tensor:
        """The most probable tokens, int32 [n_scored]."""
        blocks = blocks_of(self.n_scored, self.n_vocab)
        return torch.cat([self.log_probs(chunk, rows).argmax(1) for rows in blocks]).int()

    def checksum(self, chunk: int) -> int:
        """CRC-32 of the records of a chunk."""
        return zlib.crc32(self._records[chunk].tobytes())

    def problem(self, chunk: int) -> str | None:
        """What is wrong with the numbers of a chunk."""
        scales = np.ascontiguousarray(self._records[chunk, :, :4]).view("<f4")
        sound = np.isfinite(scales).all() and (scales[:, 0] >= 0).all()
        sound = sound and (scales.astype(np.float64) @ [LEVELS, 1] < 0.01).all()
        return None if sound else "has scales of no log-probabilities"

    def statistics(self, logits: Tensor, targets: Tensor, chunk: int) -> tuple[TokenStatistics, SampleError]:
        """Of ``logits`` [n_scored, n_vocab] and the tokens [n_scored] that follow, by llama-perplexity's formulas."""
        parts = []
        for rows in row_blocks(logits):
            log_q = in_float64(logits[rows]).log_softmax(1).cpu()
            log_p = self.log_probs(chunk, rows)
            p = torch.where(log_p > -RANGE, log_p.double().exp(), 0.0)
            column = targets[rows, None]
            nll = -log_q.gather(1, column).squeeze(1)
            nll_base = -log_p.gather(1, column).squeeze(1).double()
            parts.append(
                TokenStatistics(
                    nll=nll,
                    nll_base=nll_base,
                    kld=(p * (log_p - log_q)).sum(1),
                    delta_p=(-nll).exp() - (-nll_base).exp(),
                    same_top=(log_q.argmax(1) == log_p.argmax(1)).double(),
                    entropy=-(p * log_p).sum(1),
                ).stacked()
            )
        return TokenStatistics(*torch.cat(parts, dim=1)), SampleError.none(len(logits))

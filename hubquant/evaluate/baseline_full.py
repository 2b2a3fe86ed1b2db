"""Whole distributions, in codes of 16 bits.

For each scored token ``codes`` uint16 [chunks, scored, n_vocab] with ``scale`` and ``minimum`` float32 (ln p = minimum
+ scale · code, over the full range of the row), its exact ``nll`` float32 and the most probable token ``top`` int32.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubquant.devices import in_float64
from hubquant.evaluate.divergence import TokenStatistics, token_statistics
from hubquant.evaluate.sampling import SampleError
from hubquant.evaluate.scoring import row_blocks

FORMAT = "hubquant baseline 1"
LEVELS = 65535
DATASETS = ("codes", "scale", "minimum", "nll", "top")
DTYPES = {"codes": "<u2", "scale": "<f4", "minimum": "<f4", "nll": "<f4", "top": "<i4"}


@dataclass(frozen=True)
class EncodedRows:
    """The scored rows of one chunk as they are stored: ``codes`` [n, n_vocab], the others [n]."""

    codes: Tensor
    scale: Tensor
    minimum: Tensor
    nll: Tensor
    top: Tensor


def encode(logits: Tensor, targets: Tensor) -> EncodedRows:
    """``logits`` [n, n_vocab] and the tokens [n] that follow; a stored ln p is off by half a ``scale`` at most."""
    parts = []
    for rows in row_blocks(logits):
        log_p = in_float64(logits[rows]).log_softmax(1).cpu()
        minimum, maximum = log_p.amin(1).float(), log_p.amax(1).float()
        scale = (maximum - minimum) / LEVELS
        steps = (log_p - minimum[:, None]) / torch.where(scale > 0, scale, 1.0)[:, None]
        codes = steps.round().clamp(0, LEVELS).to(torch.uint16)
        nll = -log_p.gather(1, targets[rows, None]).squeeze(1).float()
        parts.append(EncodedRows(codes, scale, minimum, nll, log_p.argmax(1).int()))
    return EncodedRows(*(torch.cat([getattr(p, field) for p in parts]) for field in DATASETS))


def decode(codes: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    """ln p in float32 [n, n_vocab]; their exponentials sum to one only up to the rounding of the codes."""
    return minimum[:, None] + scale[:, None] * codes.float()


class FullScores:
    """The scores of a stored baseline, read chunk by chunk."""

    def __init__(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._arrays = arrays
        self.n_chunks, self.n_scored, self.n_vocab = arrays["codes"].shape

    @property
    def all_nll(self) -> Tensor:
        return torch.from_numpy(np.array(self._arrays["nll"])).flatten()

    def log_probs(self, chunk: int, rows: slice = slice(None)) -> Tensor:
        """ln p of the scored rows of a chunk, float32 [n, n_vocab]."""
        return decode(*(self._read(name, chunk, rows) for name in ("codes", "scale", "minimum")))

    def nll(self, chunk: int) -> Tensor:
        """-ln p of the tokens that follow, float32 [n_scored]."""
        return self._read("nll", chunk)

    def top(self, chunk: int) -> Tensor:
        """The most probable tokens, int32 [n_scored]."""
        return self._read("top", chunk)

    def statistics(self, logits: Tensor, targets: Tensor, chunk: int) -> tuple[TokenStatistics, SampleError]:
        """Of ``logits`` [n_scored, n_vocab] and the tokens [n_scored] that follow."""
        nll, top = self.nll(chunk), self.top(chunk)
        parts = [
            token_statistics(logits[rows], self.log_probs(chunk, rows), nll[rows], top[rows], targets[rows]).stacked()
            for rows in row_blocks(logits)
        ]
        return TokenStatistics(*torch.cat(parts, dim=1)), SampleError.none(len(logits))

    def checksum(self, chunk: int) -> int:
        """CRC-32 of a chunk's scores."""
        checksum = 0
        for name in DATASETS:
            checksum = zlib.crc32(self._arrays[name][chunk].tobytes(), checksum)
        return checksum

    def problem(self, chunk: int) -> str | None:  # noqa: ARG002
        """None: numbers of any size decode to some distribution."""
        return None

    def _read(self, name: str, chunk: int, rows: slice = slice(None)) -> Tensor:
        return torch.from_numpy(np.array(self._arrays[name][chunk, rows]))

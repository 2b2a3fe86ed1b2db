"""The source model's next-token distributions on a text, stored once so that every file can be compared with them.

One HDF5 file: ``tokens`` int32 [chunks, chunk_size]; for each scored token ``codes`` uint16 [chunks, scored, n_vocab]
with ``scale`` and ``minimum`` float32 (ln p = minimum + scale · code, over the full range of the row), its exact
``nll`` float32 and the most probable token ``top`` int32. What made it stands in the attributes.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np
import torch
from torch import Tensor

from hubquant.devices import in_float64
from hubquant.errors import BaselineError
from hubquant.evaluate.likelihood import Perplexity
from hubquant.evaluate.scoring import n_scored, row_blocks

FORMAT = "hubquant baseline 1"
LEVELS = 65535
DATASETS = ("codes", "scale", "minimum", "nll", "top")


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
    return EncodedRows(*(torch.cat([getattr(p, field) for p in parts]) for field in EncodedRows.__dataclass_fields__))


def decode(codes: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    """ln p in float32 [n, n_vocab]; their exponentials sum to one only up to the rounding of the codes."""
    return minimum[:, None] + scale[:, None] * codes.float()


@dataclass(frozen=True)
class Identity:
    """What a baseline was made from: the model's name and revision, the fingerprint of the token ids."""

    model: str
    revision: str
    chunks_fingerprint: str

    def attributes(self) -> dict[str, str]:
        return {"format": FORMAT, **self.__dict__}


class Baseline:
    """A stored baseline, read chunk by chunk."""

    def __init__(self, file: h5py.File, identity: Identity) -> None:
        self._file = file
        self.identity = identity
        self.n_chunks, self.n_scored, self.n_vocab = file["codes"].shape

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises BaselineError for a file that is missing, damaged, or not a baseline."""
        hint = "write it again: hubquant evaluate baseline"
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            why = "there is no such file" if not path.exists() else "it is not a complete HDF5 file"
            raise BaselineError(f"{path} cannot be read", why=why, hint=hint) from error
        try:
            identity = _checked_identity(file)
        except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
            file.close()
            raise BaselineError(f"{path} is not a baseline", why=str(error), hint=hint) from None
        return cls(file, identity)

    @property
    def ids(self) -> Tensor:
        """Token ids, int64 [chunks, chunk_size]."""
        return torch.from_numpy(self._file["tokens"][...].astype(np.int64))

    @property
    def key(self) -> bytes:
        """sha256 of what the baseline was made from."""
        return hashlib.sha256(json.dumps(self.identity.attributes(), sort_keys=True).encode()).digest()

    @property
    def perplexity(self) -> Perplexity:
        return Perplexity.of(torch.from_numpy(self._file["nll"][...]).flatten())

    def log_probs(self, chunk: int, rows: slice = slice(None)) -> Tensor:
        """ln p of the scored rows of a chunk, float32 [n, n_vocab]."""
        return decode(*(self._read(name, chunk, rows) for name in ("codes", "scale", "minimum")))

    def nll(self, chunk: int) -> Tensor:
        return self._read("nll", chunk)

    def top(self, chunk: int) -> Tensor:
        return self._read("top", chunk)

    def checksum(self, chunk: int) -> int:
        checksum = 0
        for name in DATASETS:
            checksum = zlib.crc32(self._file[name][chunk].tobytes(), checksum)
        return checksum

    def _read(self, name: str, chunk: int, rows: slice = slice(None)) -> Tensor:
        return torch.from_numpy(self._file[name][chunk, rows])

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checked_identity(file: h5py.File) -> Identity:
    """Raises ValueError, KeyError, TypeError or AttributeError for a file of another structure."""
    found = str(file.attrs["format"])
    if found != FORMAT:
        raise ValueError(f"its format is {found!r}, not {FORMAT!r}")
    n_chunks, scored, n_vocab = file["codes"].shape
    expected = dict.fromkeys(DATASETS, (n_chunks, scored)) | {"codes": (n_chunks, scored, n_vocab)}
    for name, shape in expected.items():
        if file[name].shape != shape:
            raise ValueError(f"its {name} have the shape {list(file[name].shape)}, not {list(shape)}")
    chunks, chunk_size = file["tokens"].shape
    if chunks != n_chunks or scored != n_scored(chunk_size):
        raise ValueError(f"its {chunks} chunks of {chunk_size} tokens do not belong to the scores")
    return Identity(*(str(file.attrs[name]) for name in Identity.__dataclass_fields__))

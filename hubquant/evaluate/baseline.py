"""The source model's next-token distributions on a text, stored once so that every file can be compared with them.

One HDF5 file: ``tokens`` int32 [chunks, chunk_size]; for each scored token ``codes`` uint16 [chunks, scored, n_vocab]
with ``scale`` and ``minimum`` float32 (ln p = minimum + scale · code, over the full range of the row), its exact
``nll`` float32 and the most probable token ``top`` int32. ``checksums`` uint32 [chunks] are CRC-32 of each chunk's
scores; the first versions wrote none. What made it stands in the attributes.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hubquant.devices import in_float64
from hubquant.errors import BaselineError
from hubquant.evaluate.hdf5 import FileStructure, StoredArray, read_structure
from hubquant.evaluate.likelihood import Perplexity
from hubquant.evaluate.scoring import n_scored, row_blocks

FORMAT = "hubquant baseline 1"
LEVELS = 65535
DATASETS = ("codes", "scale", "minimum", "nll", "top")
CHECKSUMS = "checksums"
DTYPES = {"codes": "<u2", "scale": "<f4", "minimum": "<f4", "nll": "<f4", "top": "<i4", "tokens": "<i4"}


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
class BaselineIdentity:
    """What a baseline was made from: the model's name and revision, the fingerprint of the token ids."""

    model: str
    revision: str
    chunks_fingerprint: str

    def attributes(self) -> dict[str, str]:
        return {"format": FORMAT, **self.__dict__}


class Baseline:
    """A stored baseline, read chunk by chunk."""

    def __init__(self, arrays: Mapping[str, np.ndarray[Any, Any]], identity: BaselineIdentity) -> None:
        self._arrays = arrays
        self.identity = identity
        self.n_chunks, self.n_scored, self.n_vocab = arrays["codes"].shape

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises BaselineError for a file that is missing, damaged, or not a baseline."""
        hint = "write it again: hubquant evaluate baseline"
        try:
            structure = read_structure(path)
        except OSError as error:
            why = "there is no such file" if not path.exists() else error.strerror or str(error)
            raise BaselineError(f"{path} cannot be read", why=why, hint=hint) from error
        except ValueError as error:
            raise BaselineError(f"{path} cannot be read", why=str(error), hint=hint) from None
        try:
            identity = _checked_identity(structure)
            names = [*DTYPES, *([CHECKSUMS] if CHECKSUMS in structure.arrays else [])]
            arrays = {name: _mapped(path, structure.arrays[name]) for name in names}
            _check_values(arrays)
        except (ValueError, OSError) as error:
            raise BaselineError(f"{path} is not a baseline", why=str(error), hint=hint) from None
        return cls(arrays, identity)

    @property
    def ids(self) -> Tensor:
        """Token ids, int64 [chunks, chunk_size]."""
        return torch.from_numpy(self._arrays["tokens"].astype(np.int64))

    @property
    def key(self) -> bytes:
        """sha256 of what the baseline was made from."""
        return hashlib.sha256(json.dumps(self.identity.attributes(), sort_keys=True).encode()).digest()

    @property
    def perplexity(self) -> Perplexity:
        return Perplexity.of(torch.from_numpy(np.array(self._arrays["nll"])).flatten())

    def log_probs(self, chunk: int, rows: slice = slice(None)) -> Tensor:
        """ln p of the scored rows of a chunk, float32 [n, n_vocab]."""
        return decode(*(self._read(name, chunk, rows) for name in ("codes", "scale", "minimum")))

    def nll(self, chunk: int) -> Tensor:
        """-ln p of the tokens that follow, float32 [n_scored]."""
        return self._read("nll", chunk)

    def top(self, chunk: int) -> Tensor:
        """The most probable tokens, int32 [n_scored]."""
        return self._read("top", chunk)

    def checksum(self, chunk: int) -> int:
        """CRC-32 of a chunk's scores."""
        checksum = 0
        for name in DATASETS:
            checksum = zlib.crc32(self._arrays[name][chunk].tobytes(), checksum)
        return checksum

    @property
    def has_checksums(self) -> bool:
        return CHECKSUMS in self._arrays

    def is_whole(self, chunk: int) -> bool:
        """Whether a chunk's scores are what was written; True where no checksum tells."""
        return not self.has_checksums or int(self._arrays[CHECKSUMS][chunk]) == self.checksum(chunk)

    def check(self, chunk: int) -> None:
        """Raises BaselineError for a chunk that is not what was written."""
        if not self.is_whole(chunk):
            raise BaselineError(
                "the baseline is damaged",
                why=f"chunk {chunk + 1} is not what was written",
                hint="write it again: hubquant evaluate baseline",
            )

    def _read(self, name: str, chunk: int, rows: slice = slice(None)) -> Tensor:
        return torch.from_numpy(np.array(self._arrays[name][chunk, rows]))

    def close(self) -> None:
        self._arrays = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checked_identity(structure: FileStructure) -> BaselineIdentity:
    """Raises ValueError for a file of another structure."""
    found, arrays = structure.attributes.get("format"), structure.arrays
    if found != FORMAT:
        raise ValueError(f"its format is {found!r:.80}, not {FORMAT!r}")
    names = tuple(BaselineIdentity.__dataclass_fields__)
    if missing := [
        name for name in (*names, *DTYPES) if name not in (structure.attributes if name in names else arrays)
    ]:
        raise ValueError(f"it has no {missing[0]}")
    for name, dtype in DTYPES.items():
        if arrays[name].dtype != dtype or len(arrays[name].shape) != (3 if name == "codes" else 2):
            raise ValueError(f"its {name} are {len(arrays[name].shape)} dimensions of {arrays[name].dtype:.40}")
    n_chunks, scored, _ = arrays["codes"].shape
    for name in DATASETS[1:]:
        if arrays[name].shape != (n_chunks, scored):
            raise ValueError(f"its {name} have the shape {list(arrays[name].shape)}, not {[n_chunks, scored]}")
    if CHECKSUMS in arrays and (arrays[CHECKSUMS].dtype, arrays[CHECKSUMS].shape) != ("<u4", (n_chunks,)):
        raise ValueError(f"its {CHECKSUMS} are not {n_chunks} of 32 bits")
    chunks, chunk_size = arrays["tokens"].shape
    if chunks != n_chunks or scored != n_scored(chunk_size):
        raise ValueError(f"its {chunks} chunks of {chunk_size} tokens do not belong to the scores")
    return BaselineIdentity(*(structure.attributes[name] for name in names))


def _mapped(path: Path, array: StoredArray) -> np.ndarray[Any, Any]:
    if 0 in array.shape:
        return np.empty(array.shape, array.dtype)
    return np.memmap(path, array.dtype, "r", array.offset, array.shape)


def _check_values(arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    n_vocab = arrays["codes"].shape[2]
    for name in ("tokens", "top"):
        if arrays[name].size and not (arrays[name].min() >= 0 and arrays[name].max() < n_vocab):
            raise ValueError(f"its {name} are not of a vocabulary of {n_vocab}")
    for name in ("scale", "minimum", "nll"):
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"its {name} are not all finite")

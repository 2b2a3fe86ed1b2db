"""The source model's next-token distributions on a text, stored once so that every file can be compared with them.

They are stored in one of three forms: ``compact`` (:mod:`.baseline_compact`) and ``full`` (:mod:`.baseline_full`) are
HDF5 files, ``llama.cpp`` (:mod:`.baseline_llama_cpp`) is what llama-perplexity writes and reads. The HDF5 files hold
``tokens`` int32 [chunks, chunk_size] besides, and ``checksums`` uint32 [chunks]: CRC-32 of each chunk's scores; the
first versions wrote none. What made them stands in their attributes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from hubquant.errors import BaselineError
from hubquant.evaluate import baseline_compact, baseline_full, baseline_llama_cpp
from hubquant.evaluate.baseline_compact import CompactScores
from hubquant.evaluate.baseline_full import FullScores
from hubquant.evaluate.baseline_llama_cpp import LlamaCppScores
from hubquant.evaluate.divergence import TokenStatistics
from hubquant.evaluate.forms import LARGEST_COMPACT, Form
from hubquant.evaluate.hdf5 import FileStructure, StoredArray, read_structure
from hubquant.evaluate.likelihood import Perplexity
from hubquant.evaluate.sampling import SampleError
from hubquant.evaluate.scoring import n_scored

CHECKSUMS = "checksums"
_OPTIONAL = ("texts", "part_chunks")
AGAIN = "write it again: hubquant evaluate baseline"


class Scores(Protocol):
    """The scores of all chunks, in one form."""

    n_chunks: int
    n_scored: int
    n_vocab: int

    @property
    def all_nll(self) -> Tensor:
        """-ln p of every scored token that follows, float32 [chunks · scored]."""

    def statistics(self, logits: Tensor, targets: Tensor, chunk: int) -> tuple[TokenStatistics, SampleError]:
        """A model's ``logits`` [n_scored, n_vocab] compared with a chunk; ``targets`` [n_scored] are the tokens that
        follow."""

    def top(self, chunk: int) -> Tensor:
        """The most probable tokens, int32 [n_scored]."""

    def checksum(self, chunk: int) -> int:
        """CRC-32 of a chunk's scores as they are now."""

    def problem(self, chunk: int) -> str | None:
        """What is wrong with a chunk, even if it is what was written."""


@dataclass(frozen=True)
class BaselineIdentity:
    """What a baseline was made from: the model's name and revision, the fingerprint of the token ids, that of their
    texts in the tokenizer (empty where a file does not tell), and the number of the first chunk in the text.

    ``texts`` are the names of the texts, each in a line, where they are known. Of one that was joined, ``part_chunks``
    has the number of chunks of each part and ``tokens_fingerprint`` those of the parts, "-" where there is none.
    """

    model: str
    revision: str
    chunks_fingerprint: str
    tokens_fingerprint: str = ""
    first_chunk: int = 1
    texts: str = ""
    part_chunks: str = ""

    def attributes(self, format: str) -> dict[str, str]:
        told = {name: str(value) for name, value in asdict(self).items() if name not in _OPTIONAL or value}
        return {"format": format, **told}

    @classmethod
    def read(cls, attributes: Mapping[str, str]) -> Self:
        """Raises ``ValueError`` for attributes that are not those of a baseline."""
        for name in ("model", "revision", "chunks_fingerprint"):
            if name not in attributes:
                raise ValueError(f"it has no {name}")
        found = {field.name: attributes[field.name] for field in fields(cls) if field.name in attributes}
        first = found.pop("first_chunk", "1")
        return cls(**found, first_chunk=_number(first, "first_chunk"))


class Baseline:
    """A stored baseline, read chunk by chunk.

    ``identity`` is None for a file of llama-perplexity, which tells nothing of the model. ``ids`` are the token ids,
    int64 [chunks, chunk_size].
    """

    def __init__(
        self,
        form: Form,
        scores: Scores,
        ids: Tensor,
        identity: BaselineIdentity | None,
        checksums: np.ndarray[Any, Any] | None = None,
    ) -> None:
        self.form, self.scores, self.ids, self.identity = form, scores, ids, identity
        self._checksums = checksums
        self.n_chunks, self.n_scored, self.n_vocab = scores.n_chunks, scores.n_scored, scores.n_vocab

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises BaselineError for a file that is missing, damaged, or not a baseline."""
        try:
            with path.open("rb") as file:
                is_llama_cpp = file.read(len(baseline_llama_cpp.MAGIC)) == baseline_llama_cpp.MAGIC
            if is_llama_cpp:
                scores = LlamaCppScores.open(path)
                return cls("llama.cpp", scores, scores.ids, None)
            structure = read_structure(path)
        except OSError as error:
            why = "there is no such file" if not path.exists() else error.strerror or str(error)
            raise BaselineError(f"{path} cannot be read", why=why, hint=AGAIN) from error
        except ValueError as error:
            raise BaselineError(f"{path} cannot be read", why=str(error), hint=AGAIN) from None
        try:
            return cls._of_hdf5(path, structure)
        except (ValueError, OSError) as error:
            raise BaselineError(f"{path} is not a baseline", why=str(error), hint=AGAIN) from None

    @classmethod
    def _of_hdf5(cls, path: Path, structure: FileStructure) -> Self:
        found = structure.attributes.get("format")
        identity = BaselineIdentity.read(structure.attributes)
        scores: FullScores | CompactScores
        form: Form
        numbers: tuple[str, ...]
        match found:
            case baseline_full.FORMAT:
                form, arrays = "full", _arrays(path, structure, baseline_full.DTYPES)
                scores = FullScores(arrays)
                numbers = ("scale", "minimum", "nll")
            case baseline_compact.FORMAT:
                form, arrays = "compact", _arrays(path, structure, baseline_compact.DTYPES, ("entries", "|u1"))
                n_vocab = _number(structure.attributes.get("n_vocab", ""), "n_vocab")
                if n_vocab > LARGEST_COMPACT:
                    raise ValueError(f"it has a vocabulary of {n_vocab}")
                scores = CompactScores(arrays, n_vocab)
                numbers = ("nll", "entropy", "tail_mass", "tail_span")
            case _:
                raise ValueError(f"its format is {found!r:.80}")
        for name in ("tokens", "top"):
            values = arrays[name]
            if values.size and not (values.min() >= 0 and values.max() < scores.n_vocab):
                raise ValueError(f"its {name} are not of a vocabulary of {scores.n_vocab}")
        for name in numbers:
            if not np.isfinite(arrays[name]).all():
                raise ValueError(f"its {name} are not all finite")
        ids = torch.from_numpy(arrays["tokens"].astype(np.int64))
        opened = cls(form, scores, ids, identity, arrays.get(CHECKSUMS))
        _ = opened.tokens_of_parts  # so that a damaged one is told now
        return opened

    @property
    def key(self) -> bytes:
        """sha256 of what the baseline was made from."""
        identity = self.identity and self.identity.attributes(self.form)
        content = identity or {"form": self.form, "ids": hashlib.sha256(self.ids.numpy().tobytes()).hexdigest()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()

    @property
    def tokens_of_parts(self) -> list[tuple[Tensor, str]]:
        """The ids [chunks, chunk_size] of each of the parts that were joined, or of all, and the fingerprint of their
        texts in the tokenizer; empty where it is not known."""
        if self.identity is None or not self.identity.part_chunks:
            return [(self.ids, self.identity.tokens_fingerprint if self.identity else "")]
        counts = [_number(count, "part_chunks") for count in self.identity.part_chunks.split()]
        found = [each.replace("-", "") for each in self.identity.tokens_fingerprint.split()]
        if sum(counts) != self.n_chunks or len(found) != len(counts):
            raise ValueError("its parts are not those that are counted")
        return list(zip(torch.split(self.ids, counts), found, strict=True))

    @property
    def perplexity(self) -> Perplexity:
        return Perplexity.of(self.scores.all_nll)

    @property
    def has_checksums(self) -> bool:
        return self._checksums is not None

    def is_whole(self, chunk: int) -> bool:
        """Whether a chunk's scores are what was written; True where no checksum tells."""
        return self._checksums is None or int(self._checksums[chunk]) == self.scores.checksum(chunk)

    def check(self, chunk: int) -> None:
        """Raises BaselineError for a chunk that is not what was written."""
        if problem := self.scores.problem(chunk) if self.is_whole(chunk) else "is not what was written":
            raise BaselineError("the baseline is damaged", why=f"chunk {chunk + 1} {problem}", hint=AGAIN)

    def statistics(self, logits: Tensor, targets: Tensor, chunk: int) -> tuple[TokenStatistics, SampleError]:
        """See :meth:`Scores.statistics`. Raises BaselineError for a chunk that is not what was written."""
        self.check(chunk)
        return self.scores.statistics(logits, targets, chunk)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self.__dict__.pop("scores", None)
        self._checksums = None


def _number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < len(text) < 12:
        raise ValueError(f"its {name} is {text!r:.80}")
    return int(text)


def _arrays(
    path: Path, structure: FileStructure, dtypes: Mapping[str, str], ragged: tuple[str, str] | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a file by name: those of ``dtypes``, the token ids, the checksums if there are any, and one that is
    ``ragged``, with rows for each count. Raises ``ValueError`` for a file of another structure."""
    found = structure.arrays
    wanted = {**dtypes, "tokens": "<i4", **(dict([ragged]) if ragged else {})}
    for name, dtype in wanted.items():
        if name not in found:
            raise ValueError(f"it has no {name}")
        dimensions = 3 if name == "codes" else 2
        if found[name].dtype != dtype or len(found[name].shape) != dimensions:
            raise ValueError(f"its {name} are {len(found[name].shape)} dimensions of {found[name].dtype:.40}")
    chunks, chunk_size = found["tokens"].shape
    rows = (chunks, n_scored(chunk_size))
    for name in dtypes:
        if found[name].shape[:2] != rows:
            raise ValueError(f"its {name} have the shape {list(found[name].shape)}, not {list(rows)}")
    if CHECKSUMS in found and (found[CHECKSUMS].dtype, found[CHECKSUMS].shape) != ("<u4", (chunks,)):
        raise ValueError(f"its {CHECKSUMS} are not {chunks} of 32 bits")
    names = [*wanted, *([CHECKSUMS] if CHECKSUMS in found else [])]
    arrays = {name: _mapped(path, found[name]) for name in names}
    if ragged:
        baseline_compact.check_counts(arrays)
    return arrays


def _mapped(path: Path, array: StoredArray) -> np.ndarray[Any, Any]:
    if 0 in array.shape:
        return np.empty(array.shape, array.dtype)
    return np.memmap(path, array.dtype, "r", array.offset, array.shape)

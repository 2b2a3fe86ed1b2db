"""The statistics of every scored token, in an HDF5 file for programs that look further than a table.

At the root ``nll``, ``nll_base``, ``kld``, ``delta_p`` and ``entropy`` float32 and ``same_top`` uint8, all [chunks,
scored tokens of a chunk], as :class:`~hubquant.evaluate.divergence.TokenStatistics` has them; ``number`` int32
[chunks], which chunk of the text it is, from 0 up, and ``text`` int32 [chunks], which of the attribute ``texts`` (a
JSON list of names) it is of. In the group ``by_chunk`` float64 [chunks] of ``kld``: ``mean``, ``error``, ``median``,
``minimum``, ``maximum`` and the percentiles, such as ``p99.9``. The attribute ``divergence`` is the whole as JSON,
without what is told of each chunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from hubquant.disk import sync, unfinished, writing
from hubquant.errors import EvaluationError
from hubquant.evaluate.divergence import PERCENTS, Distribution, Divergence, TokenStatistics

FORMAT = "hubquant report 1"
NAMES = tuple(field.name for field in fields(TokenStatistics))
WHOLE = ("mean", "error", "median", "minimum", "maximum")


def write_report(
    path: Path,
    chunks: Iterable[TokenStatistics],
    divergence: Divergence,
    numbers: Sequence[int],
    texts: Sequence[str] = (),
) -> None:
    """``numbers`` are those of the chunks in the text, ``texts`` the names of their texts. At once, chunk by chunk;
    equal input gives equal bytes. Raises ``OutputError`` or ``DiskFullError``."""
    temporary = unfinished(path)
    try:
        with writing(path):
            with h5py.File(temporary, "w", libver="latest") as file:
                _fill(file, chunks, divergence, numbers, texts)
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _fill(
    file: Any,
    chunks: Iterable[TokenStatistics],
    divergence: Divergence,
    numbers: Sequence[int],
    texts: Sequence[str],
) -> None:
    names = list(dict.fromkeys(texts)) or [""]
    file.attrs["format"] = FORMAT
    file.attrs["texts"] = json.dumps(names)
    file.attrs["divergence"] = json.dumps(asdict(replace(divergence, chunks=())))
    by_chunk: list[list[float]] = []
    for number, chunk in enumerate(chunks):
        n = len(chunk.kld)
        for name in NAMES:
            if not number:
                dtype = np.uint8 if name == "same_top" else np.float32
                size = max(1, (1 << 16) // n)
                file.create_dataset(name, (0, n), dtype, chunks=(size, n), maxshape=(None, n), track_times=False)
            file[name].resize(number + 1, axis=0)
            file[name][number] = getattr(chunk, name).numpy()
        told = Distribution.of_tokens(chunk.kld)
        by_chunk.append([*(getattr(told, field) for field in WHOLE), *told.percentiles.values()])
    for i, name in enumerate((*WHOLE, *(f"p{percent:g}" for percent in PERCENTS))):
        values = np.array([row[i] for row in by_chunk])
        file.create_dataset(f"by_chunk/{name}", data=values, track_times=False)
    text = [names.index(text) for text in texts] or [0] * len(by_chunk)
    for name, of_chunks in {"number": numbers, "text": text}.items():
        file.create_dataset(name, data=np.array(of_chunks, np.int32), track_times=False)


class Report:
    """A report file that is open: ``texts`` are the names of its texts, ``text`` int32 [chunks] which of them a chunk
    is of, and ``numbers`` int32 [chunks] which chunk it is of all."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.texts: list[str] = json.loads(file.attrs["texts"])
        self.text: np.ndarray[Any, np.dtype[np.int32]] = file["text"][:]
        self.numbers: np.ndarray[Any, np.dtype[np.int32]] = file["number"][:]

    def __len__(self) -> int:
        return len(self.text)

    def kld(self) -> Iterator[torch.Tensor]:
        """The divergences of the tokens of each chunk, float64 [n]."""
        return (torch.from_numpy(self._file["kld"][chunk].astype(np.float64)) for chunk in range(len(self)))


@contextmanager
def open_report(path: Path) -> Iterator[Report]:
    """A file that hubquant wrote. Raises ``EvaluationError`` for one that is no report."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise EvaluationError(f"{path} is no report", why=str(error), hint="write it with evaluate run -o") from None
    with file:
        if file.attrs.get("format") != FORMAT:
            raise EvaluationError(f"{path} is no report", hint="write it with hubquant evaluate run -o")
        yield Report(file)

"""Importance matrices on disk: the GGUF format of llama-imatrix, and the older one of .dat files."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import torch

from hubquant.disk import unfinished, write_at_once, writing
from hubquant.errors import GGUFError, ImatrixError
from hubquant.gguf_file import GGUFFile, GGUFWriter, TensorEntry, plan_layout
from hubquant.gguf_file.metadata import Metadata, string, strings, u32
from hubquant.imatrix.legacy import encode_dat, parse_dat
from hubquant.imatrix.matrix import Entry, ImportanceMatrix

# Stock tools look at the first two suffixes only; the others are hubquant's additions. Sums and counts are float32 in
# this format, too little for the shards of a collection to add up to the whole: what rounding takes away stands in a
# second tensor, also float32 (together 48 bits), where there is any.
SUM2, COUNTS, SUM = ".in_sum2", ".counts", ".in_sum"
LOW = "_low"
PROVENANCE = "hubquant."
DAT = ".dat"


def save(matrix: ImportanceMatrix, path: Path | str) -> None:
    """Write ``matrix`` as GGUF, or in the older format when the suffix of ``path`` is .dat.

    Raises ``ImatrixError`` when the format cannot hold it, ``OutputError`` or ``DiskFullError``; then nothing is left
    behind.
    """
    path = Path(path)
    if path.suffix == DAT:
        write_at_once(path, encode_dat(matrix))
        return
    tensors = dict(_tensors(matrix))
    try:
        layout = plan_layout(_metadata(matrix), [TensorEntry(n, tuple(x.shape), "F32") for n, x in tensors.items()])
    except (GGUFError, struct.error) as error:
        raise ImatrixError(
            "the importance matrix does not fit into a GGUF file",
            why=str(error),
            hint="write a .dat file instead" if isinstance(error, GGUFError) else None,
        ) from None
    with GGUFWriter(unfinished(path), layout) as writer:
        try:
            for name, x in tensors.items():
                writer.write(name, x)
            written = writer.finish()
        except BaseException:
            writer.discard()
            raise
    with writing(path):
        written.replace(path)


def load_imatrix(path: Path | str) -> ImportanceMatrix:
    """Read a file by what it holds, whatever its suffix. Raises ``ImatrixError``."""
    path = Path(path)
    try:
        if not is_gguf(path):
            return parse_dat(path.read_bytes(), str(path))
    except OSError as error:
        raise ImatrixError(f"{path} cannot be read", why=error.strerror or str(error)) from None
    try:
        return _read(GGUFFile.open(path), path)
    except GGUFError as error:
        raise ImatrixError(error.what, why=error.why, hint=error.hint) from None


def is_gguf(path: Path) -> bool:
    """Whether a file is in that format, or else in the older one."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _metadata(matrix: ImportanceMatrix) -> Metadata:
    return {
        "general.type": string("imatrix"),
        "imatrix.datasets": strings(matrix.datasets),
        "imatrix.chunk_count": u32(matrix.chunk_count),
        "imatrix.chunk_size": u32(matrix.chunk_size),
        **{PROVENANCE + key: string(value) for key, value in matrix.provenance.items()},
    }


def _tensors(matrix: ImportanceMatrix) -> Iterator[tuple[str, torch.Tensor]]:
    for name in sorted(matrix.entries, key=str.encode):
        entry = matrix.entries[name]
        sums = {SUM2: entry.in_sum2, COUNTS: entry.counts[:, None], SUM: entry.in_sum}
        values = {name + suffix: x.to(torch.float64) for suffix, x in sums.items() if x is not None}
        yield from ((key, _flat(x)) for key, x in values.items())
        for key, x in values.items():
            rest = x - x.to(torch.float32).to(torch.float64)
            if bool(rest.any()):
                yield key + LOW, _flat(rest)


def _flat(x: torch.Tensor) -> torch.Tensor:
    """float32; ggml drops a leading dimension of one."""
    return (x[0] if len(x) == 1 else x).to(torch.float32)


def _read(file: GGUFFile, path: Path) -> ImportanceMatrix:
    datasets = file.metadata.get("imatrix.datasets")
    names = datasets.value if datasets and isinstance(datasets.value, tuple) else None
    chunk_size, chunk_count = (_count(file, f"imatrix.{key}") for key in ("chunk_size", "chunk_count"))
    if (
        names is None
        or not chunk_size
        or chunk_count is None
        or file.metadata.get("general.type", string("imatrix")).value != "imatrix"
    ):
        raise ImatrixError(
            f"{path} is no importance matrix",
            why="it is a GGUF file of another kind",
            hint="make one with: hubquant imatrix collect MODEL -o imatrix.gguf",
        )
    weights = [name.removesuffix(SUM2) for name in file.tensors if name.endswith(SUM2)]
    provenance = {
        key.removeprefix(PROVENANCE): kv.value
        for key, kv in file.metadata.items()
        if key.startswith(PROVENANCE) and isinstance(kv.value, str)
    }
    entries = {name: _entry(file, name, path) for name in weights}
    return ImportanceMatrix(entries, tuple(map(str, names)), chunk_size, chunk_count, provenance)


def _count(file: GGUFFile, key: str) -> int | None:
    value = file.metadata[key].value if key in file.metadata else None
    return value if isinstance(value, int) and value >= 0 else None


def _entry(file: GGUFFile, name: str, path: Path) -> Entry:
    sum2 = _values(file, name + SUM2, path)
    counts = _values(file, name + COUNTS, path)
    rounded = counts.round().to(torch.int64).flatten()
    sum_ = _values(file, name + SUM, path) if name + SUM in file.tensors else None
    if (
        counts.shape[1] != 1
        or len(sum2) != len(rounded)
        or (sum_ is not None and sum_.shape != sum2.shape)
        or bool((rounded < 0).any())
        or bool((sum2 < 0).any())
    ):
        raise ImatrixError(
            f"{path} is damaged", why=f"sums and counts of {name} do not fit together", hint="collect the matrix again"
        )
    return Entry(sum2, rounded, sum_)


def _values(file: GGUFFile, name: str, path: Path) -> torch.Tensor:
    """float64 [n_mat, n]."""
    high = _floats(file, name, path)
    if name + LOW not in file.tensors:
        return high
    low = _floats(file, name + LOW, path)
    if low.shape != high.shape:
        raise ImatrixError(
            f"{path} is damaged", why=f"{name} and {name + LOW} do not fit together", hint="collect the matrix again"
        )
    return high + low


def _floats(file: GGUFFile, name: str, path: Path) -> torch.Tensor:
    entry = file.tensors.get(name)
    if entry is None or entry.type != "F32" or len(entry.shape) > 2:
        found = "is missing" if entry is None else f"is {entry.type} of {len(entry.shape)} dimensions"
        raise ImatrixError(f"{path} is damaged", why=f"{name} {found}", hint="collect the matrix again")
    values = file.data(name).view(torch.float32).to(torch.float64).reshape(-1, entry.shape[-1])
    if not math.isfinite(float(values.sum())):  # a sum of float32 values in float64 is finite where they are
        raise ImatrixError(
            f"{path} cannot be used",
            why=f"{name} holds values that are NaN or infinite",
            hint="collect the matrix again",
        )
    return values

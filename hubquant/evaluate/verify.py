"""Compare every tensor of written files with its source, so that nothing is published that holds something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hubquant.devices import torch_threads
from hubquant.errors import VerificationError
from hubquant.evaluate.bands import VERIFIED, ErrorSums, Rounding
from hubquant.gguf_file import GGUFFile
from hubquant.quants import dequantize

STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32, "I64": torch.int64}
_SLICE = 1 << 18  # weights of one job: enough that calls cost little, and few enough for the processor's cache
NOT_FINITE = "it holds NaN or infinite values"
AGAIN = "delete the file and quantize again; if it happens again, report it with the names of the model and the tensor"


@dataclass(frozen=True)
class TensorCheck:
    """``relative_error`` = RMS error / RMS of the source, ``limit`` what its type may reach on these weights."""

    name: str
    type: str
    relative_error: float
    limit: float

    @property
    def strain(self) -> float:
        return self.relative_error / self.limit if self.limit else 0.0


@dataclass(frozen=True)
class FileCheck:
    """``worst`` are the quantized tensors nearest to their limits, the nearest first."""

    path: Path
    n_tensors: int
    worst: tuple[TensorCheck, ...]


class _Written(NamedTuple):
    path: Path
    file: GGUFFile


def verify_files(
    paths: Sequence[Path],
    source: Iterator[tuple[str, Tensor]],
    *,
    mode: Rounding = "best",
    n_worst: int = 5,
    advance: Callable[[int], None] = lambda _: None,
) -> list[FileCheck]:
    """Check the files at ``paths`` against ``source``: GGUF names and float tensors [..., n], read once for all files.

    Names and shapes must be those of the source; tensors of plain numbers must be its rounded values; quantized ones
    must be finite and, as a whole and row by row, as near as what was quantized in that ``mode`` (see ``bands``).
    Slices of a tensor are compared in as many threads as torch has, while the next tensor is read; no more than two
    tensors are in memory. ``advance`` is called once per tensor of the source. Raises VerificationError naming the file
    and the tensor, GGUFError for a file that cannot be read.
    """
    files = [_Written(path, GGUFFile.open(path)) for path in paths]
    checks: list[list[TensorCheck]] = [[] for _ in files]
    names: set[str] = set()
    with _threads() as pool:
        for name, found in _compared(files, source, mode, pool):
            names.add(name)
            for check, of_file in zip(found, checks, strict=True):
                of_file.append(check)
            advance(1)
    for path, file in files:
        if surplus := [name for name in file.tensors if name not in names]:
            raise _failure(path, surplus[0], "the source has no such tensor")
    return [
        FileCheck(path, len(found), tuple(sorted(found, key=lambda check: -check.strain)[:n_worst]))
        for (path, _), found in zip(files, checks, strict=True)
    ]


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """As many as torch has, which then takes no others. They end with the slices they are at."""
    pool = ThreadPoolExecutor(torch.get_num_threads())
    with torch_threads(1):
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _compared(
    files: Sequence[_Written], source: Iterator[tuple[str, Tensor]], mode: Rounding, pool: ThreadPoolExecutor
) -> Iterator[tuple[str, list[TensorCheck]]]:
    """The checks of each tensor, one for each file. While its slices are compared the next tensor is read."""
    waiting: tuple[str, list[list[Future[ErrorSums]]]] | None = None
    for name, tensor in source:
        slices = [_submit(pool, each, name, tensor, mode) for each in files]
        if waiting:
            yield _checked(files, *waiting)
        waiting = name, slices
        del tensor, slices  # the next one is read while these names would hold them
    if waiting:
        yield _checked(files, *waiting)


def _submit(
    pool: ThreadPoolExecutor, written: _Written, name: str, tensor: Tensor, mode: Rounding
) -> list[Future[ErrorSums]]:
    path, file = written
    entry = file.tensors.get(name)
    if entry is None:
        raise _failure(path, name, "the file lacks this tensor")
    if entry.shape != tuple(tensor.shape):
        raise _failure(path, name, f"its shape is {list(entry.shape)}, the source's {list(tensor.shape)}")
    if entry.type not in STORED and entry.type not in VERIFIED:
        raise _failure(path, name, f"tensors of type {entry.type} are not verified")
    n_in = entry.shape[-1]
    step = max(1, _SLICE // n_in)
    pairs = zip(torch.split(tensor.reshape(-1, n_in), step), torch.split(file.data(name), step), strict=True)
    return [pool.submit(_compare, path, name, entry.type, x, stored, mode) for x, stored in pairs]


def _compare(path: Path, name: str, type: str, x: Tensor, stored: Tensor, mode: Rounding) -> ErrorSums:
    """Some rows of the source [rows, n_in] with the file's bytes uint8 [rows, row_bytes]."""
    sums = ErrorSums(type, mode)
    if dtype := STORED.get(type):
        y = stored.view(dtype)
        if not torch.stack(y.aminmax()).isfinite().all():
            raise _failure(path, name, NOT_FINITE)
        if not torch.equal(y, x.to(dtype)):
            raise _failure(path, name, f"it is not the source rounded to {type}")
    else:
        sums.add(x.float(), dequantize(stored, type, x.shape[1]), stored)
        if not sums.finite:
            raise _failure(path, name, NOT_FINITE)
    return sums


def _checked(
    files: Sequence[_Written], name: str, slices: Sequence[Sequence[Future[ErrorSums]]]
) -> tuple[str, list[TensorCheck]]:
    found = []
    for (path, file), parts in zip(files, slices, strict=True):
        entry = file.tensors[name]
        sums = reduce(add, (part.result() for part in parts))
        if sums.relative_error > sums.limit:
            raise _failure(
                path,
                name,
                f"its values are off by {sums.relative_error:.2%} of their size, "
                f"{sums.limit:.2%} is the most for {entry.type} with its scales",
            )
        if sums.bad_rows:
            raise _failure(path, name, f"{sums.bad_rows} of its {entry.rows} rows do not hold the source's values")
        found.append(TensorCheck(name, entry.type, sums.relative_error, sums.limit))
    return name, found


def _failure(path: Path, name: str, why: str) -> VerificationError:
    return VerificationError(f"{path.name}: {name} is not what its source holds", why=why, hint=AGAIN)

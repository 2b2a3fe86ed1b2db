"""Compare every tensor of written files with its source, so that nothing is published that holds something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hubquant.errors import VerificationError
from hubquant.evaluate.bands import VERIFIED, ErrorSums
from hubquant.evaluate.scoring import BLOCK_ELEMENTS
from hubquant.gguf_file import GGUFFile
from hubquant.quants import dequantize
from hubquant.quants.api import Mode

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
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


def verify_files(
    paths: Sequence[Path],
    source: Iterator[tuple[str, Tensor]],
    *,
    mode: Mode = "best",
    n_worst: int = 5,
    advance: Callable[[int], None] = lambda _: None,
) -> list[FileCheck]:
    """Check the files at ``paths`` against ``source``: GGUF names and float tensors [..., n], read once for all files.

    Names and shapes must be those of the source; F32, F16 and BF16 tensors must be its rounded values; quantized ones
    must be finite and, as a whole and row by row, as near as what was quantized in that ``mode`` (see ``bands``).
    ``advance`` is called once per tensor of the source. Raises VerificationError naming the file and the tensor,
    GGUFError for a file that cannot be read.
    """
    files = [(path, GGUFFile.open(path)) for path in paths]
    checks: list[list[TensorCheck]] = [[] for _ in files]
    names: set[str] = set()
    for name, tensor in source:
        names.add(name)
        for (path, file), found in zip(files, checks, strict=True):
            found.append(_check_tensor(path, file, name, tensor, mode))
        advance(1)
    for path, file in files:
        if surplus := [name for name in file.tensors if name not in names]:
            raise _failure(path, surplus[0], "the source has no such tensor")
    return [
        FileCheck(path, len(found), tuple(sorted(found, key=lambda check: -check.strain)[:n_worst]))
        for (path, _), found in zip(files, checks, strict=True)
    ]


def _check_tensor(path: Path, file: GGUFFile, name: str, tensor: Tensor, mode: Mode) -> TensorCheck:
    entry = file.tensors.get(name)
    if entry is None:
        raise _failure(path, name, "the file lacks this tensor")
    if entry.shape != tuple(tensor.shape):
        raise _failure(path, name, f"its shape is {list(entry.shape)}, the source's {list(tensor.shape)}")
    if entry.type not in FLOATS and entry.type not in VERIFIED:
        raise _failure(path, name, f"tensors of type {entry.type} are not verified")
    n_in = entry.shape[-1]
    data, matrix = file.data(name), tensor.reshape(-1, n_in)
    sums = ErrorSums(entry.type, mode)
    step = max(1, BLOCK_ELEMENTS // n_in)
    for start in range(0, len(matrix), step):
        x = matrix[start : start + step]
        stored = data[start : start + step]
        y = dequantize(stored, entry.type, n_in)
        if not y.isfinite().all():
            raise _failure(path, name, "it holds NaN or infinite values")
        if entry.type not in FLOATS:
            sums.add(x.float(), y, stored)
        elif not torch.equal(y, x.to(FLOATS[entry.type]).float()):
            raise _failure(path, name, f"it is not the source rounded to {entry.type}")
    if sums.relative_error > sums.limit:
        raise _failure(
            path,
            name,
            f"its values are off by {sums.relative_error:.2%} of their size, "
            f"{sums.limit:.2%} is the most for {entry.type} with its scales",
        )
    if sums.bad_rows:
        raise _failure(path, name, f"{sums.bad_rows} of its {len(matrix)} rows do not hold the source's values")
    return TensorCheck(name, entry.type, sums.relative_error, sums.limit)


def _failure(path: Path, name: str, why: str) -> VerificationError:
    return VerificationError(f"{path.name}: {name} is not what its source holds", why=why, hint=AGAIN)

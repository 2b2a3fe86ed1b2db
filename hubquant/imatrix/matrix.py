"""The importance matrix: sums over what flowed into every weight's columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hubquant.errors import ImatrixError

if TYPE_CHECKING:
    from hubquant.imatrix.statistics import Statistics

_BLOCK = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, eq=False)
class Entry:
    """Sums of one weight's inputs. A dense weight has one matrix, a weight of experts one for each.

    ``in_sum2``: float64 [n_mat, n_in], Σx² per input column; ``counts``: int64 [n_mat], rows seen; ``in_sum``: Σx in
    the shape of ``in_sum2``, None when the file it came from has none.
    """

    in_sum2: torch.Tensor
    counts: torch.Tensor
    in_sum: torch.Tensor | None = None

    def __add__(self, other: Entry) -> Entry:
        """Element-wise; a single count stands for every matrix of the other (files in .dat format have only one)."""
        n_mat = max(len(self.counts), len(other.counts))
        first, second = self._with_matrices(n_mat), other._with_matrices(n_mat)
        if first.in_sum2.shape != second.in_sum2.shape:
            raise ValueError(f"{tuple(self.in_sum2.shape)} and {tuple(other.in_sum2.shape)}")
        in_sum = None if first.in_sum is None or second.in_sum is None else first.in_sum + second.in_sum
        return Entry(first.in_sum2 + second.in_sum2, first.counts + second.counts, in_sum)

    def _with_matrices(self, n_mat: int) -> Entry:
        if len(self.counts) == n_mat or len(self.counts) > 1 or self.in_sum2.numel() % n_mat:
            return self
        in_sum = None if self.in_sum is None else self.in_sum.reshape(n_mat, -1)
        return Entry(self.in_sum2.reshape(n_mat, -1), self.counts.expand(n_mat), in_sum)


@dataclass(frozen=True, eq=False)
class ImportanceMatrix:
    """``entries`` by GGUF weight name; ``datasets`` in the order they were read; ``chunk_size`` in tokens.

    ``provenance`` holds further facts, which a file keeps under ``hubquant.<key>``.
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...]
    chunk_size: int
    chunk_count: int
    provenance: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | str) -> ImportanceMatrix:
        """Read a GGUF or a .dat file. Raises ``ImatrixError`` for anything else."""
        from hubquant.imatrix.files import load

        return load(Path(path))

    def save(self, path: Path | str) -> None:
        """Write a GGUF file that llama-quantize reads, at once or not at all."""
        from hubquant.imatrix.files import save

        save(self, Path(path))

    def merge(self, others: Iterable[ImportanceMatrix]) -> ImportanceMatrix:
        """Add matrices element by element, so each weighs as many tokens as it saw. Raises ``ImatrixError`` naming the
        first weight whose size differs, and for different chunk sizes."""
        entries = dict(self.entries)
        datasets = list(self.datasets)
        for other in others:
            if other.chunk_size != self.chunk_size:
                raise ImatrixError(
                    "the matrices have different chunk sizes",
                    why=f"{self.chunk_size} and {other.chunk_size} tokens",
                    hint="collect them with the same chunk size",
                )
            datasets += other.datasets
            for name, entry in other.entries.items():
                try:
                    entries[name] = entries[name] + entry if name in entries else entry
                except ValueError as error:
                    raise ImatrixError(
                        f"the matrices do not belong to one model: {name} has different sizes", why=str(error)
                    ) from None
        largest = max((int(entry.counts.max()) for entry in entries.values()), default=0)
        return ImportanceMatrix(entries, tuple(datasets), self.chunk_size, largest // self.chunk_size)

    def importance(self, name: str) -> torch.Tensor | None:
        """Mean of x² per input column, float32 [n_in], or [n_mat, n_in] for experts; None when there is no such entry.

        Divided in float32 as llama-quantize does, because some of its quantizers are sensitive to the last bit. A
        matrix that saw nothing has ones.
        """
        entry = self.entries.get(name)
        if entry is None:
            return None
        counts = entry.counts.to(torch.float32)[:, None]
        means = torch.where(counts > 0, entry.in_sum2.to(torch.float32) / counts.clamp(min=1), 1.0)
        return means[0] if len(means) == 1 else means

    def statistics(self) -> Statistics:
        """The table of ``llama-imatrix --show-statistics``."""
        from hubquant.imatrix.statistics import statistics

        return statistics(self.entries)

    def check(self, expected: Mapping[str, int]) -> tuple[str, ...]:
        """Compare with a model: ``expected`` has n_in of each weight that should have an entry.

        Returns the weights without an entry. Raises ``ImatrixError`` when sizes differ, when there are entries of
        blocks that the model does not have, and when nothing matches at all.
        """
        sizes = {name: entry.in_sum2.shape[1] for name, entry in self.entries.items()}
        wrong = [name for name, n_in in expected.items() if sizes.get(name, n_in) != n_in]
        if wrong:
            raise ImatrixError(
                "the importance matrix belongs to another model",
                why=f"{wrong[0]} has {sizes[wrong[0]]} columns there and {expected[wrong[0]]} in the model "
                f"({len(wrong)} of {len(expected)} weights differ)",
                hint="use the matrix of this model, or have one collected",
            )
        blocks = {_block(name) for name in expected}
        foreign = [name for name in sizes if _block(name) is not None and _block(name) not in blocks]
        missing = tuple(name for name in expected if name not in sizes)
        if foreign or (expected and len(missing) == len(expected)):
            first = foreign[0] if foreign else next(iter(sizes), "nothing")
            raise ImatrixError(
                "the importance matrix belongs to another model",
                why=f"it has {first}, and the model has no such block"
                if foreign
                else f"it has {first}, not {missing[0]}",
                hint="use the matrix of this model, or have one collected",
            )
        return missing


def _block(name: str) -> str | None:
    match = _BLOCK.match(name)
    return match[1] if match else None

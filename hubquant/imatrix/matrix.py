"""The importance matrix: sums over what flowed into every weight's columns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from hubquant.errors import ImatrixError
from hubquant.units import counted

CALIBRATION = "calibration_sha256"
"""The key of the provenance that tells the token ids apart that a matrix was collected on."""
_BLOCK = re.compile(r"(?:enc\.)?blk\.(\d+)\.")


@dataclass(frozen=True, eq=False)
class Entry:
    """Sums of one weight's inputs. A dense weight has one matrix, a weight of experts one for each.

    ``in_sum2``: float64 [n_mat, n_in], Σx² per input column; ``counts``: int64 [n_mat], rows seen; ``in_sum``: Σx in
    the shape of ``in_sum2``, None when the file it came from has none.
    """

    in_sum2: torch.Tensor
    counts: torch.Tensor
    in_sum: torch.Tensor | None = None

    def by_matrix(self, n_mat: int) -> Entry:
        """With ``n_mat`` rows, where a file has them in one with a single count: that count then stands for each.

        Files in .dat format have experts so, and both formats the weights that have a matrix per head. An entry that
        has several rows already, or that does not divide, stays as it is.
        """
        if len(self.counts) == n_mat or len(self.counts) > 1 or self.in_sum2.numel() % n_mat:
            return self
        in_sum = None if self.in_sum is None else self.in_sum.reshape(n_mat, -1)
        return Entry(self.in_sum2.reshape(n_mat, -1), self.counts.expand(n_mat), in_sum)

    def means(self) -> torch.Tensor:
        """Mean of x² per input column, float32 [n_mat, n_in]; ones for a matrix that saw nothing.

        Divided in float32 as llama-quantize does, because some of its quantizers are sensitive to the last bit.
        """
        counts = self.counts.to(torch.float32)[:, None]
        return torch.where(counts > 0, self.in_sum2.to(torch.float32) / counts.clamp(min=1), 1.0)

    def by_chunks(self, chunk_size: int) -> tuple[int, torch.Tensor]:
        """As a .dat file has it: the number of chunks, rounded up, and the :meth:`means` times that number."""
        chunks = -(-int(self.counts.max()) // chunk_size)
        return chunks, self.means() * chunks


@dataclass(frozen=True, eq=False, repr=False)
class ImportanceMatrix:
    """``entries`` by GGUF weight name; ``datasets`` in the order they were read; ``chunk_size`` in tokens.

    ``provenance`` holds further facts, which a file keeps under ``hubquant.<key>``; those whose key begins with
    ``model_`` tell which weights were observed. A matrix of a pipeline that makes pictures has these as chunks, and the
    ``chunk_size`` 1: they have no tokens.
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...]
    chunk_size: int
    chunk_count: int
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        chunks = f"{counted(self.chunk_count, 'chunk')} of {self.chunk_size} tokens"
        if self.of_pictures:
            chunks = counted(self.chunk_count, "picture")
        weights = counted(len(self.entries), "weight")
        return f"<ImportanceMatrix of {weights}: {chunks} from {', '.join(self.datasets) or '?'}>"

    @property
    def of_pictures(self) -> bool:
        return self.chunk_size == 1 and not any(map(_BLOCK.match, self.entries))

    def select(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> ImportanceMatrix:
        """With the entries that :func:`selected` names."""
        return replace(self, entries={name: self.entries[name] for name in selected(self.entries, include, exclude)})

    def importance(self, name: str) -> torch.Tensor | None:
        """:meth:`Entry.means`, [n_in] of a dense weight; None when there is no such entry."""
        entry = self.entries.get(name)
        if entry is None:
            return None
        means = entry.means()
        return means[0] if len(means) == 1 else means

    def facts(self) -> dict[str, Any]:
        """What the matrix says of itself, beside its entries."""
        return {
            "datasets": list(self.datasets),
            "chunk_size": self.chunk_size,
            "chunk_count": self.chunk_count,
            "provenance": dict(self.provenance),
        }

    def fit(self, shapes: Mapping[str, tuple[int, ...]]) -> ImportanceMatrix:
        """The matrix with a row for each matrix of a model's weights; ``shapes`` has all of these, in torch order.

        Raises ``ImatrixError`` when sizes differ, when there are entries of blocks that the model does not have, and
        when nothing matches at all.
        """
        expected = {name: (math.prod(shapes[name][:-2]), shapes[name][-1]) for name in self.entries if name in shapes}
        fitted = {
            name: entry.by_matrix(expected[name][0]) if name in expected else entry
            for name, entry in self.entries.items()
        }
        found = {name: (fitted[name].in_sum2.shape[0], fitted[name].in_sum2.shape[1]) for name in expected}
        wrong = [name for name in expected if found[name] != expected[name]]
        blocks = {_block(name) for name in shapes}
        foreign = [name for name in fitted if _block(name) is not None and _block(name) not in blocks]
        why = None
        if wrong:
            first = wrong[0]
            why = (
                f"{first} has {_size(*found[first])} columns there and {_size(*expected[first])} in the model "
                f"({len(wrong)} of {len(expected)} weights differ)"
            )
        elif foreign:
            why = f"it has {foreign[0]}, and the model has no such block"
        elif not expected:
            why = f"it has {next(iter(fitted), 'nothing')}, and the model has no such weight"
        if why is not None:
            raise ImatrixError(
                "the importance matrix belongs to another model",
                why=why,
                hint="use the matrix of this model, or have one collected",
            )
        return replace(self, entries=fitted)


def selected(names: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> tuple[str, ...]:
    """The names that hold one of ``include``, all when there are none, and none of ``exclude``; llama-quantize's
    --include-weights and --exclude-weights."""
    return tuple(
        name
        for name in names
        if (not include or any(part in name for part in include)) and not any(part in name for part in exclude)
    )


def chunk_count(entries: Mapping[str, Entry], chunk_size: int) -> int:
    """llama-imatrix's: as many whole chunks as the most rows that a matrix has seen."""
    return max((int(entry.counts.max()) for entry in entries.values()), default=0) // chunk_size


def _size(n_mat: int, n_in: int) -> str:
    return str(n_in) if n_mat == 1 else f"{n_mat} × {n_in}"


def _block(name: str) -> str | None:
    match = _BLOCK.match(name)
    return match[1] if match else None

"""A GGUF file as a user wants to see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubquant.gguf_file.layout import TensorEntry
from hubquant.gguf_file.metadata import KV
from hubquant.gguf_file.reader import GGUFFile
from hubquant.units import size

SHOWN_ITEMS = 4


@dataclass(frozen=True)
class Description:
    """``types`` are (type, number of tensors, bytes), largest first; long arrays in ``metadata`` are shortened."""

    metadata: Mapping[str, Any]
    tensors: Sequence[TensorEntry]
    types: Sequence[tuple[str, int, int]]

    @property
    def n_parameters(self) -> int:
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def bpw(self) -> float:
        """Bits per weight of the tensor data, as llama-quantize prints it."""
        return self.nbytes * 8 / max(self.n_parameters, 1)

    def __str__(self) -> str:
        architecture = self.metadata.get("general.architecture", "no model")
        types = ", ".join(f"{count} {name}" for name, count, _ in self.types)
        weights = f"{self.n_parameters / 1e6:.2f} M weights"
        return f"{architecture}, {weights}, {size(self.nbytes)}, {self.bpw:.4f} bpw: {types}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "metadata": dict(self.metadata),
            "parameters": self.n_parameters,
            "bytes": self.nbytes,
            "bpw": self.bpw,
            "tensors": [
                {"name": t.name, "shape": list(t.shape), "type": t.type, "bytes": t.nbytes} for t in self.tensors
            ],
        }


def describe(file: GGUFFile) -> Description:
    tensors = list(file.tensors.values())
    names = {tensor.type for tensor in tensors}
    types = [(n, sum(t.type == n for t in tensors), sum(t.nbytes for t in tensors if t.type == n)) for n in names]
    return Description(
        metadata={key: shown(kv) for key, kv in file.metadata.items()},
        tensors=tensors,
        types=sorted(types, key=lambda row: -row[2]),
    )


def shown(kv: KV) -> Any:
    """The value, a long array shortened."""
    if not isinstance(kv.value, tuple):
        return kv.value
    if len(kv.value) <= SHOWN_ITEMS:
        return list(kv.value)
    return f"[{', '.join(map(str, kv.value[:SHOWN_ITEMS]))}, … {len(kv.value)} values]"

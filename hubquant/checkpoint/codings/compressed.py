"""Integers of compressed-tensors: ``weight_packed`` in words, or a ``weight`` of bytes, with scales and zero points.

Layouts of compressed-tensors 0.20 (pack-quantized, int-quantized) and of its earlier versions, which padded words and
stored an order of the inputs (``weight_g_idx``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.codings.bytes8 import Bytes, of_bytes
from hubquant.checkpoint.codings.found import Found, floats, misfit
from hubquant.checkpoint.codings.integers import WORD, q4_0, q8_0, scaled, unpacked
from hubquant.checkpoint.headers import FLOATS, TensorInfo, listed
from hubquant.errors import CheckpointError

if TYPE_CHECKING:
    import torch

FORMATS = frozenset(
    {
        *("dense", "pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "mixed-precision"),
        *("nvfp4-pack-quantized", "mxfp4-pack-quantized"),
    }
)
_PARTS = ("_packed", "_scale", "_zero_point", "_shape", "_g_idx")
_BITS = range(1, 9)


@dataclass(frozen=True)
class PackedIntegers:
    """Codes of ``bits`` around their middle, [rows, columns] by the header of ``size``, which holds both numbers."""

    weight: TensorInfo
    scales: TensorInfo
    zeros: TensorInfo | None
    size: TensorInfo
    groups: TensorInfo | None
    bits: int
    shape: tuple[int, int]

    @property
    def label(self) -> str:
        return f"compressed-tensors, int{self.bits}"

    def decode(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        return scaled(self._codes(read), self._scales(read), self._zeros(read), self._order(read))

    @property
    def type(self) -> str | None:
        return None if self.zeros else {4: "Q4_0", 8: "Q8_0"}.get(self.bits)

    def blocks(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor | None:
        if self._order(read) is not None:
            return None
        codes = self._codes(read)
        return q4_0(codes, self._scales(read)) if self.bits == 4 else q8_0(codes ^ 0x80, self._scales(read))

    def _codes(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        rows, columns = self.shape
        if (said := read(self.size).tolist()) != [rows, columns]:
            raise CheckpointError(
                f"{listed([self.weight.name])} is said to be {said}",
                why=f"with the scales that it has it is {[rows, columns]}",
                hint="compare the files with those of the repository that the model comes from",
            )
        padded = self.weight.shape[1] != _words(columns, self.bits)[0]
        return unpacked(read(self.weight), self.bits, padded=padded)[:, :columns]

    def _scales(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        return read(self.scales).reshape(-1, self.scales.shape[1] if len(self.scales.shape) == 2 else 1)

    def _zeros(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor | int:
        middle, rows = 1 << (self.bits - 1), self.shape[0]
        if self.zeros is None:
            return middle
        x = read(self.zeros)
        if self.zeros.dtype == "I8":
            return x.reshape(self._scales(read).shape).int() + middle
        padded = self.zeros.shape[0] != _words(rows, self.bits)[0]
        return unpacked(x.T, self.bits, padded=padded)[:, :rows].T

    def _order(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor | None:
        """The group of each input; -1 in a file that has none."""
        groups = read(self.groups).long() if self.groups else None
        if groups is None or bool((groups < 0).any()):
            return None
        if bool((groups >= self.scales.shape[1]).any()):
            raise CheckpointError(
                f"{listed([self.weight.name])} has inputs in groups that are not there",
                why=f"there are {self.scales.shape[1]}",
                hint="fetch the files again",
            )
        return groups


def find_compressed(tensors: Mapping[str, TensorInfo], settings: Mapping[str, Any]) -> Iterator[Found]:
    """Nothing where ``settings``, the quantization_config, tell of a form that is not known, of weights that are sparse
    or of inputs that are rotated. Raises ``CheckpointError`` for shapes that do not fit together."""
    kinds = _kinds(settings)
    for name, info in tensors.items():
        if name.endswith(".weight_packed") and info.dtype == "I32":
            stem = name.removesuffix("_packed")
            coding = _packed(stem, tensors, kinds)
            if coding is not None:
                names = tuple(f"{stem}{part}" for part in _PARTS)
                yield stem, floats(stem, coding.shape, coding.scales, coding), names
        elif name.endswith(".weight") and info.dtype == "I8" and f"{name}_scale" in tensors:
            scales, zeros = tensors[f"{name}_scale"], tensors.get(f"{name}_zero_point")
            whole = Bytes("compressed-tensors", info, scales, zeros)
            yield of_bytes(name, whole, (f"{name}_scale", f"{name}_zero_point"))


def is_known(settings: Mapping[str, Any]) -> bool:
    groups = settings.get("config_groups")
    each = [group for group in groups.values() if isinstance(group, Mapping)] if isinstance(groups, Mapping) else []
    formats = {str(found) for found in (settings.get("format"), *(x.get("format") for x in each)) if found}
    sparse = settings.get("sparsity_config")
    dense = not sparse or (isinstance(sparse, Mapping) and sparse.get("format") in (None, "dense"))
    return formats <= FORMATS and dense and not settings.get("transform_config")


def _kinds(settings: Mapping[str, Any]) -> set[tuple[int, int | None]]:
    """Bits and the size of a group, None where a row is one, of all integers in words."""
    groups = settings.get("config_groups")
    found = set()
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping) or weights.get("type", "int") != "int":
            continue
        bits, size = weights.get("num_bits"), weights.get("group_size")
        if type(bits) is int and bits in _BITS:
            found.add((bits, size if type(size) is int and size > 0 else None))
    return found


def _packed(stem: str, tensors: Mapping[str, TensorInfo], kinds: set[tuple[int, int | None]]) -> PackedIntegers | None:
    """None where no kind that config.json names fits the shapes, or several that are not the same."""
    weight, scales = tensors[f"{stem}_packed"], tensors.get(f"{stem}_scale")
    zeros, size, groups = (tensors.get(f"{stem}{part}") for part in _PARTS[2:])
    if scales is None or size is None:
        raise CheckpointError(
            f"{listed([weight.name])} has no {'weight_shape' if scales else 'weight_scale'} beside it",
            hint="fetch the files again",
        )
    if len(weight.shape) != 2 or scales.dtype not in FLOATS or size.shape != (2,) or size.dtype not in ("I32", "I64"):
        raise misfit(weight, scales, size)
    rows, words = weight.shape
    n_groups = math.prod(scales.shape) // rows if rows and math.prod(scales.shape) > 1 else 1
    found = set()
    for bits, group in kinds:
        columns = n_groups * group if group else words * WORD // bits
        if words in _words(columns, bits):
            found.add((bits, columns))
    if len(found) != 1:
        return None
    ((bits, columns),) = found
    if columns % n_groups or not rows * columns:
        raise misfit(weight, scales)
    if groups and (groups.dtype not in ("I32", "I64") or groups.shape != (columns,)):
        raise misfit(weight, scales, groups)
    if zeros and not _zeros_fit(zeros, rows, bits, n_groups):
        raise misfit(weight, scales, zeros)
    return PackedIntegers(weight, scales, zeros, size, groups, bits, (rows, columns))


def _zeros_fit(zeros: TensorInfo, rows: int, bits: int, n_groups: int) -> bool:
    if zeros.dtype == "I8":
        return math.prod(zeros.shape) in (1, rows * n_groups)
    return zeros.dtype == "I32" and zeros.shape[1:] == (n_groups,) and zeros.shape[0] in _words(rows, bits)


def _words(count: int, bits: int) -> tuple[int, int]:
    """How many hold ``count`` numbers: without a gap, and padded."""
    return math.ceil(count * bits / WORD), math.ceil(count / (WORD // bits))

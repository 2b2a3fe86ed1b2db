"""Safetensors headers, read as input from a stranger."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from hubquant.errors import CheckpointError

if TYPE_CHECKING:
    import torch

ReadRange = Callable[[int, int], bytes]

LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors format
MAX_DIMS = 8
LISTED = 5
FLOATS = ("F32", "F16", "BF16")

BITS: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("F4",), 4),
        **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
        **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
        **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
        **dict.fromkeys(("U32", "I32", "F32"), 32),
        **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    }
)


@dataclass(frozen=True)
class ScaleTensor:
    """Factors for a matrix of FP8, one for each ``block`` of [rows, columns]; None where it was only cast."""

    factors: TensorInfo | None
    block: tuple[int, int]


class Coding(Protocol):
    """How a matrix lies in several tensors as codes, scales and the like."""

    @property
    def label(self) -> str:
        """What it is, for messages: method and bits."""

    def decode(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        """The floats [rows, columns] that it stands for, in float32. ``read`` gives a tensor as it is stored. Raises
        ``CheckpointError`` where the tensors contradict each other."""

    @property
    def type(self) -> str | None:
        """That of GGUF whose blocks may hold the same numbers."""

    def blocks(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor | None:
        """In blocks of that type, uint8 [rows, row_bytes]; None where these cannot hold all of them."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that lies in bytes ``begin`` to ``end`` of ``file``; ``dtype`` is the safetensors name.

    A ``transposed`` one lies there as [..., columns, rows] and has the ``shape`` [..., rows, columns]. One with a
    ``coding`` is made of others, and its ``dtype`` is that of floats which would be published of it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int
    scale: ScaleTensor | None = None
    transposed: bool = False
    coding: Coding | None = None

    @property
    def float_type(self) -> str:
        """What its numbers stand for: FP8 with a scale is rounded BF16, as models are published; F64 is F32."""
        return "BF16" if self.scale else "F32" if self.dtype == "F64" else self.dtype

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


def read_header(read_range: ReadRange, file: str, file_size: int) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, in the order of their data.

    ``read_range(begin, end)`` gives those bytes of the file, from a disk or over HTTP. Raises ``CheckpointError`` for a
    header that is not sound: https://huggingface.co/docs/safetensors lists the rules, which leave no byte of the file
    unused and none used twice.
    """
    if file_size < LENGTH_BYTES:
        raise _corrupt(file, f"it has {file_size} bytes")
    length = int.from_bytes(_exactly(read_range, 0, LENGTH_BYTES, file), "little")
    data = LENGTH_BYTES + length
    if length == _POINTER:
        raise _corrupt(file, "it is a pointer of Git LFS to the file", hint="git lfs pull, or fetch the file again")
    if length > LARGEST_HEADER:
        raise _corrupt(file, f"its header claims {length:,} bytes, more than the format's {LARGEST_HEADER:,}")
    if data > file_size:
        raise _corrupt(file, f"its header claims {length:,} bytes and the file has {file_size:,}")
    entries = _parse(_exactly(read_range, LENGTH_BYTES, data, file), file)
    entries.pop("__metadata__", None)
    tensors = [_tensor(name, entry, file, data) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_cover(tensors, file, data, file_size)
    return {tensor.name: tensor for tensor in tensors}


def listed(names: Iterable[str]) -> str:
    """The first few names for a message, without control characters."""
    names = list(names)
    shown = [name if name.isprintable() and len(name) <= 120 else ascii(name[:120]) for name in names[:LISTED]]
    return ", ".join(shown) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def load_json(data: bytes) -> Any:
    """Parsed JSON; ``ValueError`` for anything else, repeated keys and bottomless nesting included."""
    try:
        return json.loads(data, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{listed([twice])} is there twice")
    return result


def _exactly(read_range: ReadRange, begin: int, end: int, file: str) -> bytes:
    data = read_range(begin, end)
    if len(data) != end - begin:
        raise _corrupt(file, f"bytes {begin} to {end} cannot be read")
    return data


def _parse(raw: bytes, file: str) -> dict[str, Any]:
    try:
        header = load_json(raw)
    except ValueError as error:
        raise _corrupt(file, f"its header is not sound JSON: {error}") from error
    if not isinstance(header, dict):
        raise _corrupt(file, "its header is not a table of tensors")
    return header


def _tensor(name: str, entry: Any, file: str, data: int) -> TensorInfo:
    def wrong(why: str) -> CheckpointError:
        return _corrupt(file, f"tensor {listed([name])} {why}")

    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise wrong("has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise wrong(f"has the unknown dtype {str(dtype)[:40]!r}")
    if not _naturals(shape) or len(shape) > MAX_DIMS:
        raise wrong("has a shape that is not a list of sizes")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong("has offsets that are not [begin, end]")
    begin, end = offsets
    if (end - begin) * 8 != math.prod(shape) * BITS[dtype]:
        raise wrong(f"takes {end - begin} bytes, which is not {dtype} {shape}")
    return TensorInfo(name, dtype, tuple(shape), file, data + begin, data + end)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_cover(tensors: list[TensorInfo], file: str, data: int, file_size: int) -> None:
    position, before = data, "the header"
    for tensor in tensors:
        if tensor.end > file_size:
            raise _corrupt(
                file, f"tensor {listed([tensor.name])} ends at byte {tensor.end:,} of {file_size:,}", hint=_AGAIN
            )
        if tensor.begin < position:
            raise _corrupt(file, f"tensors {before} and {listed([tensor.name])} overlap")
        if tensor.begin > position:
            raise _corrupt(file, f"no tensor owns the {tensor.begin - position} bytes after {before}")
        position, before = tensor.end, listed([tensor.name])
    if position != file_size:
        raise _corrupt(file, f"no tensor owns the last {file_size - position:,} bytes")


_POINTER = int.from_bytes(b"version ", "little")  # as every such text begins
_AGAIN = "the download may be incomplete: fetch the file again"


def _corrupt(file: str, why: str, hint: str = "fetch the file again, or save the model anew") -> CheckpointError:
    return CheckpointError(f"{file} is not a sound safetensors file", why=why, hint=hint)

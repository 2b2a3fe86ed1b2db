"""Where every byte of a GGUF file goes, known before any of them is written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gguf import GGUF_DEFAULT_ALIGNMENT

from hubquant.errors import GGUFError
from hubquant.gguf_file.encoding import encode_header
from hubquant.gguf_file.metadata import Metadata, i32, u16
from hubquant.gguf_file.types import row_bytes

MAX_NAME_BYTES = 63  # ggml keeps names in 64 bytes with a closing zero
MAX_DIMS = 4
DIFFUSION = "diffusion"
"""The ``general.type`` of files that no program of llama.cpp's reads: those that do have longer names and kernels of
videos, [out, in, frames, height, width]."""
DIFFUSION_NAME_BYTES = 127
DIFFUSION_DIMS = 5
DEFAULT_ALIGNMENT = int(GGUF_DEFAULT_ALIGNMENT)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file; ``shape`` is in torch order (rows first, the quantized dimension last)."""

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        return row_bytes(self.type, self.shape[-1])

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class Layout:
    """One file: exact ``header`` (padded up to the first tensor), byte ``offsets`` of the tensors, total ``size``."""

    metadata: Metadata
    tensors: Mapping[str, TensorEntry]
    header: bytes = field(repr=False)
    offsets: Mapping[str, int] = field(repr=False)
    size: int

    def with_values(self, old: Metadata, new: Metadata) -> Layout:
        """The same with ``new`` values, as large as the ``old`` ones, under the keys that have these."""
        found = {key: kv for key, kv in new.items() if self.metadata.get(key) == old[key]}
        return plan_layout(self.metadata | found, self.tensors.values()) if found else self

    def fits(self, path: Path) -> bool:
        """Whether ``path`` is a file of this size with this header."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            return file.read(len(self.header)) == self.header


def plan_layout(metadata: Metadata, entries: Iterable[TensorEntry]) -> Layout:
    """Lay a file out: metadata and tensors in the order given, tensors aligned to 32 bytes (or ``general.alignment``).

    Raises ``GGUFError`` for names or shapes that ggml cannot hold, duplicate names and rows that are not whole blocks.
    """
    tensors: dict[str, TensorEntry] = {}
    limits = _limits(metadata)
    for entry in entries:
        _check(entry, *limits)
        if entry.name in tensors:
            raise GGUFError(f"two tensors are named {entry.name}")
        tensors[entry.name] = entry
    alignment = _alignment(metadata)
    relative, end = {}, 0
    for entry in tensors.values():
        relative[entry.name] = end
        end = pad(end + entry.nbytes, alignment)
    packed = encode_header(metadata, [(e.name, e.shape, e.type, relative[e.name]) for e in tensors.values()])
    header = packed.ljust(pad(len(packed), alignment), b"\0")
    offsets = {name: len(header) + offset for name, offset in relative.items()}
    return Layout(metadata, tensors, header, offsets, len(header) + end)


@dataclass(frozen=True)
class Split:
    """How a model is cut into files: each holds at most ``max_bytes`` of tensor data (a larger tensor has its own) and
    ``max_tensors``; or by tensor the number of its file, as ``shards`` say."""

    max_bytes: int | None = None
    max_tensors: int | None = None
    shards: Mapping[str, int] | None = None

    def groups(self, entries: Sequence[TensorEntry]) -> list[list[TensorEntry]]:
        """The entries of each file, in their order."""
        if self.shards is not None:
            found: dict[int, list[TensorEntry]] = {}
            for entry in entries:
                found.setdefault(self.shards[entry.name], []).append(entry)
            return [found[number] for number in sorted(found)]
        groups: list[list[TensorEntry]] = [[]]
        held = 0
        for entry in entries:
            too_large = self.max_bytes is not None and held + entry.nbytes > self.max_bytes
            if groups[-1] and (too_large or len(groups[-1]) == self.max_tensors):
                groups.append([])
                held = 0
            groups[-1].append(entry)
            held += entry.nbytes
        return groups


def shard(metadata: Metadata, entries: Sequence[TensorEntry], split: Split) -> list[Layout]:
    """Lay out the files of a model.

    llama.cpp's convention: the model's metadata is in the first file, ``split.*`` keys are in all of them. A model that
    fits into one file has no ``split.*`` keys. Names come from :func:`shard_paths`. Headers come on top. Raises
    ``GGUFError`` as :func:`plan_layout` does, and for a limit below 1.
    """
    for limit, of in ((split.max_bytes, "bytes"), (split.max_tensors, "tensors")):
        if limit is not None and limit <= 0:
            raise GGUFError(f"a shard cannot hold {limit} {of}")
    groups = split.groups(entries)
    model = {key: value for key, value in metadata.items() if not key.startswith("split.")}
    if len(groups) == 1:
        return [plan_layout(model, entries)]
    layouts = []
    for number, group in enumerate(groups):
        keys = {"split.no": u16(number), "split.count": u16(len(groups)), "split.tensors.count": i32(len(entries))}
        layouts.append(plan_layout((model if number == 0 else {}) | keys, group))
    return layouts


def shard_paths(path: Path, count: int) -> list[Path]:
    """Names of the files of a model that is written to ``path``: ``path`` itself, or ``<stem>-00001-of-0000N.gguf``."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]


def pad(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


def _limits(metadata: Metadata) -> tuple[int, int]:
    """Bytes of a name, and dimensions. An importance matrix whose chunks are no text is of such a file."""
    kind, chunk_size = metadata.get("general.type"), metadata.get("imatrix.chunk_size")
    if (kind is not None and kind.value == DIFFUSION) or (chunk_size is not None and chunk_size.value == 1):
        return DIFFUSION_NAME_BYTES, DIFFUSION_DIMS
    return MAX_NAME_BYTES, MAX_DIMS


def _check(entry: TensorEntry, most_bytes: int, most_dims: int) -> None:
    if not entry.name or len(entry.name.encode()) > most_bytes:
        raise GGUFError(f"tensor name {entry.name!r} does not fit", why=f"ggml keeps 1 to {most_bytes} bytes")
    if not 1 <= len(entry.shape) <= most_dims or min(entry.shape) < 1:
        raise GGUFError(
            f"tensor {entry.name} has shape {entry.shape}", why=f"ggml tensors have 1 to {most_dims} dimensions"
        )


def _alignment(metadata: Metadata) -> int:
    if "general.alignment" not in metadata:
        return DEFAULT_ALIGNMENT
    value = metadata["general.alignment"].value
    if not isinstance(value, int) or value < 8 or value & (value - 1):
        raise GGUFError(f"general.alignment is {value!r}", why="it must be a power of two, at least 8")
    return value

"""One file to several and back, byte by byte as llama-gguf-split does it (llama.cpp, tools/gguf-split)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gguf import GGUF_VERSION

from hubquant.errors import GGUFError
from hubquant.gguf_file.copying import CopiedFile, lay_out
from hubquant.gguf_file.encoding import encode_value
from hubquant.gguf_file.layout import DEFAULT_ALIGNMENT, pad
from hubquant.gguf_file.metadata import i32, u16
from hubquant.gguf_file.stored import ALIGNMENT, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, StoredFile, StoredTensor

MOST_SHARDS = 65535  # split.count is a u16


@dataclass(frozen=True)
class Limit:
    """Of a shard: bytes of its tensors with their padding, or tensors by their place in the model."""

    max_bytes: int | None = None
    max_tensors: int | None = None
    no_tensor_first: bool = False


def split(files: Sequence[StoredFile], limit: Limit) -> list[CopiedFile]:
    """The shards of a model that lies in ``files``; the first one has its metadata.

    A tensor above ``max_bytes`` has a shard to itself. Raises ``GGUFError`` for more shards than can be counted.
    """
    first, tensors = files[0], [tensor for file in files for tensor in file.tensors]
    groups = list(_groups(tensors, limit, first.alignment))
    if len(groups) > MOST_SHARDS:
        raise GGUFError(f"{len(groups)} shards are too many", why=f"GGUF counts up to {MOST_SHARDS}")
    model = without_split(first.metadata)
    # Tensors of every shard lie as those of the model did.
    alignment = {ALIGNMENT: model[ALIGNMENT]} if first.alignment != DEFAULT_ALIGNMENT else {}
    shards = []
    for number, group in enumerate(groups):
        own = _split_keys(number, len(groups), len(tensors))
        shards.append(lay_out(GGUF_VERSION, (alignment if number else model) | own, group, first.alignment))
    return shards


def merge(files: Sequence[StoredFile]) -> CopiedFile:
    """The one file that ``files`` are the shards of: unlike llama-gguf-split's it has no ``split.*`` keys left."""
    first = files[0]
    tensors = [tensor for file in files for tensor in file.tensors]
    return lay_out(GGUF_VERSION, without_split(first.metadata), tensors, first.alignment)


def without_split(metadata: Mapping[str, bytes]) -> dict[str, bytes]:
    return {key: stored for key, stored in metadata.items() if key not in (SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS)}


def _split_keys(number: int, count: int, n_tensors: int) -> dict[str, bytes]:
    # llama-gguf-split sets the count last, when it knows it, which puts it there
    values = {SPLIT_NO: u16(number), SPLIT_TENSORS: i32(n_tensors), SPLIT_COUNT: u16(count)}
    return {key: encode_value(key, value) for key, value in values.items()}


def _groups(tensors: Sequence[StoredTensor], limit: Limit, alignment: int) -> Iterator[list[StoredTensor]]:
    if limit.no_tensor_first:
        yield []
    group: list[StoredTensor] = []
    held = 0
    for i, tensor in enumerate(tensors):
        padded = pad(tensor.nbytes, alignment)
        too_large = limit.max_bytes is not None and held + padded > limit.max_bytes
        too_many = limit.max_tensors is not None and i % limit.max_tensors == 0
        if group and (too_large or too_many):
            yield group
            group, held = [], 0
        group.append(tensor)
        held += padded
    yield group

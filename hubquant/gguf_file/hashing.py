"""Digests of tensors and of all of them together, those of llama.cpp's gguf-hash: metadata does not count."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import xxhash

from hubquant.gguf_file.stored import StoredFile

Kind = Literal["xxh64", "sha1", "sha256", "uuid"]
NAMESPACE = uuid.UUID("ef001206-dadc-5f6d-a15f-3359e577d4e5")
"""llama.cpp's: uuid5(NAMESPACE_URL, "en.wikipedia.org/wiki/Llama.cpp")"""


@dataclass(frozen=True)
class Digest:
    """``tensor`` is None for that of the model: of the bytes of all tensors in a row."""

    kind: Kind
    tensor: str | None
    value: str


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Uuid:
    """Version 5, as RFC 9562 makes it of a SHA-1."""

    def __init__(self) -> None:
        self._sha1 = hashlib.sha1(NAMESPACE.bytes, usedforsecurity=False)

    def update(self, data: bytes, /) -> None:
        self._sha1.update(data)

    def hexdigest(self) -> str:
        return str(uuid.UUID(bytes=self._sha1.digest()[:16], version=5))


_HASHES: Mapping[Kind, Callable[[], _Hash]] = {
    "xxh64": xxhash.xxh64,
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "uuid": _Uuid,
}


def digests(
    files: Sequence[StoredFile],
    kinds: Sequence[Kind],
    advance: Callable[[int], None] = lambda _: None,
    *,
    tensors: bool = True,
) -> Iterator[Digest]:
    """Of every tensor (``tensors``; a UUID is of the model alone), then of the model; all in one pass over the bytes.

    The shards of a model are one model. ``advance`` is called with bytes read. Raises ``GGUFError`` where a file became
    shorter.
    """
    model = {kind: _HASHES[kind]() for kind in kinds}
    for file in files:
        with file.source.open() as source:
            for tensor in file.tensors:
                own = {kind: _HASHES[kind]() for kind in kinds if tensors and kind != "uuid"}
                for read in file.source.pieces(source, tensor.start, tensor.nbytes):
                    for each in (*own.values(), *model.values()):
                        each.update(read)
                    advance(len(read))
                yield from (Digest(kind, tensor.name, each.hexdigest()) for kind, each in own.items())
    yield from (Digest(kind, None, each.hexdigest()) for kind, each in model.items())

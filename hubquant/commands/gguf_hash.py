"""``hubquant gguf hash``: digests of a model's tensors, and whether they are those of a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from hubquant.disk import check_ends
from hubquant.engine.progress import Progress
from hubquant.errors import UserError
from hubquant.gguf_file.hashing import Digest, Kind, digests
from hubquant.gguf_file.stored import read_model

MAKE_ONE = "make one: hubquant gguf hash FILE > manifest"
DEFAULT: Kind = "xxh64"
STRONGEST_FIRST: Sequence[Kind] = ("sha256", "sha1", "xxh64", "uuid")
Manifest = Mapping[tuple[str, str], str]
"""Digests by kind and by name, which is a file's, or FILE:TENSOR."""


@dataclass(frozen=True)
class Hashed:
    """``name`` is the file as it was asked for."""

    name: str
    digests: Sequence[Digest]

    def of(self, digest: Digest) -> str:
        return self.name if digest.tensor is None else f"{self.name}:{digest.tensor}"

    def lines(self) -> list[str]:
        """As gguf-hash prints them."""
        return [f"{each.kind:<8}  {each.value}  {self.of(each)}" for each in self.digests]

    def as_list(self) -> list[dict[str, Any]]:
        return [{"kind": each.kind, "tensor": each.tensor, "digest": each.value} for each in self.digests]


@dataclass(frozen=True)
class Verified:
    """``expected`` has what the manifest says of each digest; None where it says nothing."""

    hashed: Hashed
    expected: Sequence[str | None]

    @property
    def ok(self) -> bool:
        pairs = zip(self.hashed.digests, self.expected, strict=True)
        return all(expected in (None, each.value) for each, expected in pairs)

    def lines(self) -> list[str]:
        pairs = zip(self.hashed.lines(), self.hashed.digests, self.expected, strict=True)
        lines = [f"{line}  -  {_result(each, expected)}" for line, each, expected in pairs]
        return [*lines, "", "Success" if self.ok else "Failure"]

    def as_dict(self) -> dict[str, Any]:
        pairs = zip(self.hashed.as_list(), self.expected, strict=True)
        return {"equal": self.ok, "digests": [{**each, "expected": expected} for each, expected in pairs]}


def kinds(asked: Sequence[str], manifest: Path | None) -> Sequence[Kind]:
    """What is ``asked`` for, in gguf-hash's order; else the strongest of a manifest, else xxh64."""
    if asked:
        return [kind for kind in get_args(Kind) if kind in asked]
    if manifest is None:
        return [DEFAULT]
    there = {kind for kind, _ in _read(manifest)}
    return [next(kind for kind in STRONGEST_FIRST if kind in there)]


def hash_model(path: Path, chosen: Sequence[Kind], progress: Progress, *, tensors: bool) -> Hashed:
    files = read_model(path)
    total = sum(tensor.nbytes for file in files for tensor in file.tensors)
    with progress.bar("hashing", total, "B") as advance:
        return Hashed(str(path), list(digests(files, chosen, advance, tensors=tensors)))


def verify(hashed: Hashed, manifest: Path) -> Verified:
    """The file may have moved: folders do not count. Raises ``UserError`` where the manifest has none of it."""
    there = {(kind, _without_folders(name)): value for (kind, name), value in _read(manifest).items()}
    expected = [there.get((each.kind, _without_folders(hashed.of(each)))) for each in hashed.digests]
    if not any(expected):
        raise UserError(
            f"{manifest} says nothing of {hashed.name}",
            why="it has other files, or other kinds of hashes",
            hint=MAKE_ONE,
        )
    return Verified(hashed, expected)


def _read(path: Path) -> Manifest:
    """Raises ``UserError`` for what has no line of gguf-hash."""
    try:
        check_ends(path)
        lines = [line.split(None, 2) for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"the manifest {path} cannot be read", why=why, hint="check the path") from error
    found = {(line[0], line[2]): line[1] for line in lines if len(line) == 3}
    if not any(kind in get_args(Kind) for kind, _ in found):
        raise UserError(f"{path} is no manifest", why="it has no hash", hint=MAKE_ONE)
    return found


def _without_folders(name: str) -> str:
    file, colon, tensor = name.rpartition(":")
    return f"{Path(file).name}:{tensor}" if colon else Path(name).name


def _result(digest: Digest, expected: str | None) -> str:
    """In gguf-hash's words."""
    return "Not Found" if expected is None else "Ok" if expected == digest.value else "Mismatch"

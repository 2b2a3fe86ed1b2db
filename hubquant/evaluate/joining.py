"""Join baselines of parts of a text to one of all of it.

Chunks lie one after the other in every array of every form, so that the arrays of the whole are those of its parts, one
after the other: they are copied as they are stored, and no more than a block of them is in memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from io import FileIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hubquant.calibration.chunks import fingerprint_of_ids
from hubquant.disk import disk_full, pieces, sync, write_all, writing
from hubquant.errors import BaselineError
from hubquant.evaluate import baseline_compact, baseline_full, baseline_llama_cpp, hdf5_writing
from hubquant.evaluate.baseline import AGAIN, CHECKSUMS, Baseline, BaselineIdentity
from hubquant.evaluate.forms import Form
from hubquant.evaluate.hdf5 import read_structure
from hubquant.units import size

FORMATS = {"full": baseline_full.FORMAT, "compact": baseline_compact.FORMAT}


@dataclass(frozen=True)
class Joined:
    """``first_chunk`` is the number of the first chunk in the text, None in the form of llama-perplexity, which does
    not tell."""

    path: Path
    form: Form
    parts: int
    chunks: int
    chunk_size: int
    first_chunk: int | None
    size: int

    def __str__(self) -> str:
        first = self.first_chunk or 1
        return f"{self.path}: chunks {first} to {first + self.chunks - 1} of {self.parts} parts, {size(self.size)}"


@dataclass(frozen=True)
class _Part:
    path: Path
    baseline: Baseline

    @property
    def first(self) -> int:
        return self.baseline.identity.first_chunk if self.baseline.identity else 1

    @property
    def end(self) -> int:
        """The number after its last chunk."""
        return self.first + self.baseline.n_chunks

    @property
    def numbers(self) -> str:
        return f"{self.path.name} has chunks {self.first} to {self.end - 1}"


def join_baselines(paths: Sequence[Path], out: Path, advance: Callable[[int], None] = lambda _: None) -> Joined:
    """Write the chunks of the baselines ``paths`` to ``out``, by their numbers in the text; those of llama-perplexity,
    which tell none, in the order in which they are named. ``advance`` is called with bytes that were copied.

    Every chunk is checked before. Raises BaselineError for parts that do not belong together, have a chunk twice, leave
    chunks out between them or are damaged, and ``OutputError`` or ``DiskFullError``; ``out`` appears whole or not at
    all.
    """
    with ExitStack() as stack:
        found = [_Part(path, stack.enter_context(Baseline.open(path))) for path in paths]
        parts = sorted(found, key=lambda part: part.first)
        _check_alike(parts)
        _check_numbers(parts)
        _check_ids(parts)
        checksums = [_checked(part) for part in parts]
        ids = torch.cat([part.baseline.ids for part in parts])
        new = out.with_name(f".{out.name}.new")
        try:
            with writing(out):
                out.parent.mkdir(parents=True, exist_ok=True)
                if shutil.disk_usage(out.parent).free < sum(part.path.stat().st_size for part in parts):
                    raise disk_full(out)
                if parts[0].baseline.form == "llama.cpp":
                    _write_llama_cpp(parts, ids, new, advance)
                else:
                    _write_hdf5(parts, ids, np.concatenate(checksums), new, advance)
                new.replace(out)
                sync(out.parent)
        finally:
            with suppress(OSError):
                new.unlink(missing_ok=True)
        base = parts[0].baseline
        first = None if base.identity is None else base.identity.first_chunk
        return Joined(out, base.form, len(parts), len(ids), ids.shape[1], first, out.stat().st_size)


def _check_alike(parts: Sequence[_Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        for what, mine, yours in _differing(first.baseline, part.baseline):
            raise BaselineError(
                f"{first.path.name} and {part.path.name} cannot be joined",
                why=f"they are of different {what}: {mine} and {yours}",
                hint="write both of one model, text, --chunk-size and form: hubquant evaluate baseline",
            )


def _differing(one: Baseline, other: Baseline) -> Iterator[tuple[str, object, object]]:
    pairs: list[tuple[str, object, object]] = [
        ("forms", one.form, other.form),
        ("vocabularies", one.n_vocab, other.n_vocab),
        ("chunk sizes", one.ids.shape[1], other.ids.shape[1]),
    ]
    if one.identity and other.identity:
        pairs += [
            ("models", one.identity.model, other.identity.model),
            ("revisions", one.identity.revision, other.identity.revision),
        ]
        if one.identity.texts and other.identity.texts:
            pairs.append(("texts", _listed(one.identity.texts), _listed(other.identity.texts)))
    return ((what, mine, yours) for what, mine, yours in pairs if mine != yours)


def _listed(texts: str) -> str:
    return ", ".join(texts.split("\n"))


def _check_numbers(parts: Sequence[_Part]) -> None:
    if parts[0].baseline.form == "llama.cpp":
        return
    for one, other in pairwise(parts):
        if other.first < one.end:
            raise BaselineError(
                f"{one.path.name} and {other.path.name} overlap",
                why=f"{one.numbers}, {other.numbers}",
                hint="leave one of them out, or write it again with another --from-chunk",
            )
        if other.first > one.end:
            raise BaselineError(
                f"there are chunks missing between {one.path.name} and {other.path.name}",
                why=f"{one.numbers}, {other.numbers}",
                hint="write them: hubquant evaluate baseline MODEL -o missing.h5 "
                f"--from-chunk {one.end - 1} --chunks {other.first - one.end}",
            )


def _check_ids(parts: Sequence[_Part]) -> None:
    """What numbers do not tell: several texts are mixed otherwise for another number of chunks, and llama-perplexity's
    files have no numbers."""
    identity = parts[0].baseline.identity
    if identity and identity.texts and "\n" not in identity.texts:
        return
    seen: dict[bytes, tuple[_Part, int]] = {}
    for part in parts:
        keys = [ids.numpy().tobytes() for ids in part.baseline.ids[:, 1:]]
        for number, key in enumerate(keys):
            if key in seen:
                other, its = seen[key]
                raise BaselineError(
                    f"{other.path.name} and {part.path.name} overlap",
                    why=f"chunk {its + 1} of the one has the tokens of chunk {number + 1} of the other",
                    hint="write parts of one text: of several, the mixture depends on --chunks and --from-chunk",
                )
        seen |= {key: (part, number) for number, key in enumerate(keys)}


def _checked(part: _Part) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """The checksums of a part, whose chunks are what was written."""
    found = part.baseline
    for chunk in range(found.n_chunks):
        problem = found.scores.problem(chunk) if found.is_whole(chunk) else "is not what was written"
        if problem:
            raise BaselineError(f"{part.path} is damaged", why=f"chunk {chunk + 1} {problem}", hint=AGAIN)
    return np.array([found.scores.checksum(chunk) for chunk in range(found.n_chunks)], "<u4")


def _write_llama_cpp(parts: Sequence[_Part], ids: Tensor, path: Path, advance: Callable[[int], None]) -> None:
    with FileIO(path, "w") as file:
        write_all(file, baseline_llama_cpp.header(ids, parts[0].baseline.n_vocab))
        for part in parts:
            begin = baseline_llama_cpp.HEADER + 4 * part.baseline.ids.numel()
            _copy(part.path, begin, part.path.stat().st_size - begin, file, advance)
        os.fsync(file.fileno())


def _write_hdf5(
    parts: Sequence[_Part],
    ids: Tensor,
    checksums: np.ndarray[tuple[int], np.dtype[np.uint32]],
    path: Path,
    advance: Callable[[int], None],
) -> None:
    form = parts[0].baseline.form
    structures = [read_structure(part.path) for part in parts]
    scores = {**baseline_full.DTYPES} if form == "full" else {**baseline_compact.DTYPES, "entries": "|u1"}
    arrays: dict[str, tuple[tuple[int, ...], str]] = {}
    for name, dtype in scores.items():
        shapes = [structure.arrays[name].shape for structure in structures]
        arrays[name] = ((sum(shape[0] for shape in shapes), *shapes[0][1:]), dtype)
    arrays |= {CHECKSUMS: (checksums.shape, "<u4"), "tokens": (tuple(ids.shape), "<i4")}
    attributes = _identity(parts, ids).attributes(FORMATS[form])
    if form == "compact":
        thresholds = [float(structure.attributes.get("threshold", "nan")) for structure in structures]
        attributes |= {"n_vocab": str(parts[0].baseline.n_vocab), "threshold": repr(max(thresholds))}
    hdf5_writing.create(path, attributes, arrays)
    places = hdf5_writing.places(path)
    with FileIO(path, "r+") as file:
        for name, content in (("tokens", ids.numpy().astype("<i4")), (CHECKSUMS, checksums)):
            file.seek(places[name])
            write_all(file, content.tobytes())
        for name in scores:
            file.seek(places[name])
            for part, structure in zip(parts, structures, strict=True):
                array = structure.arrays[name]
                n_bytes = int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize
                _copy(part.path, array.offset, n_bytes, file, advance)
        os.fsync(file.fileno())


def _identity(parts: Sequence[_Part], ids: Tensor) -> BaselineIdentity:
    identities = [part.baseline.identity for part in parts]
    assert identities[0] is not None
    tokens = [each for part in parts for each in part.baseline.tokens_of_parts]
    return replace(
        identities[0],
        chunks_fingerprint=fingerprint_of_ids(ids),
        tokens_fingerprint=" ".join(fingerprint or "-" for _, fingerprint in tokens),
        part_chunks=" ".join(str(len(part_ids)) for part_ids, _ in tokens),
    )


def _copy(source: Path, begin: int, n_bytes: int, target: FileIO, advance: Callable[[int], None]) -> None:
    with FileIO(source) as file:
        try:
            for piece in pieces(file, begin, n_bytes):
                write_all(target, piece)
                advance(len(piece))
        except EOFError:
            raise BaselineError(f"{source} became shorter while it was read", hint=AGAIN) from None

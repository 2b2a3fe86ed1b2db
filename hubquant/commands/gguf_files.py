"""``hubquant gguf split`` and ``merge``, and how all that this group writes gets to its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubquant.commands.targets import check_target
from hubquant.engine.machine import check_disk
from hubquant.engine.progress import Progress
from hubquant.errors import UserError
from hubquant.gguf_file.copying import CopiedFile, write_files
from hubquant.gguf_file.splitting import Limit
from hubquant.gguf_file.splitting import merge as merged
from hubquant.gguf_file.splitting import split as split_up
from hubquant.gguf_file.stored import SPLIT_COUNT, read_model
from hubquant.recipe.references import GGUF_SUFFIX
from hubquant.recipe.sizes import parse_size

DEFAULT_TENSORS = 128  # llama-gguf-split's


@dataclass(frozen=True)
class Writing:
    """Files to be written, by their paths."""

    files: Mapping[Path, CopiedFile]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())

    def as_list(self) -> list[dict[str, Any]]:
        return [{"path": str(path), "tensors": file.n_tensors, "size": file.size} for path, file in self.files.items()]


def split(path: Path, out: Path, limit: Limit) -> Writing:
    """``out`` is what the names of the shards begin with; ``.gguf`` at its end is left out. Raises ``UserError``."""
    files = read_model(path)
    shards = split_up(files, limit)
    name = out.name.removesuffix(GGUF_SUFFIX)
    paths = [out.with_name(f"{name}-{n:05d}-of-{len(shards):05d}{GGUF_SUFFIX}") for n in range(1, len(shards) + 1)]
    return checked(dict(zip(paths, shards, strict=True)), [file.path for file in files])


def merge(path: Path, out: Path) -> Writing:
    """Raises ``UserError`` for a file that is no shard."""
    files = read_model(path)
    if SPLIT_COUNT not in files[0].metadata:
        raise UserError(
            f"{path} is no shard", why=f"it has no {SPLIT_COUNT}", hint="name the first shard: NAME-00001-of-0000N.gguf"
        )
    return checked({out: merged(files)}, [file.path for file in files])


def parse_limit(size: str | None, tensors: int | None, *, no_tensor_first: bool) -> Limit:
    """Raises ``UserError`` where both are given, and for what is no size."""
    if size is not None and tensors is not None:
        raise UserError("--split-max-size and --split-max-tensors contradict each other", hint="give one of them")
    if size is None:
        return Limit(max_tensors=tensors or DEFAULT_TENSORS, no_tensor_first=no_tensor_first)
    return Limit(max_bytes=parse_size(size, "--split-max-size"), no_tensor_first=no_tensor_first)


def checked(files: Mapping[Path, CopiedFile], sources: Sequence[Path], *, in_place: bool = False) -> Writing:
    """Raises ``OutputError`` and ``UserError`` before anything is written: ``sources`` stay unless it is
    ``in_place``, what else is there must be a model, and there must be room."""
    for path in files:
        if not in_place and any(_is_one_file(path, source) for source in sources):
            raise UserError(f"{path} would be written over", why="it is what is read", hint="give --out another name")
        check_target(path, "model")
    writing = Writing(files)
    for folder in {path.parent for path in files}:
        check_disk(writing.size, folder, "--out")
    return writing


def carry_out(writing: Writing, progress: Progress) -> None:
    with progress.bar("writing", writing.size, "B") as advance:
        write_files(writing.files, advance)


def _is_one_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False

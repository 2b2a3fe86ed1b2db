"""All file types in one pass: each source tensor is read once and quantized once to every distinct type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from hubquant.gguf_file import GGUFWriter, Layout, shard_paths
from hubquant.quants import quantize

Mode = Literal["exact", "best"]
Importance = Callable[[str], torch.Tensor | None]


@dataclass(frozen=True)
class Target:
    """A file to write: ``layouts`` are its shards, ``path`` names the unsharded file, ``types`` covers every tensor."""

    path: Path
    layouts: Sequence[Layout]
    types: Mapping[str, str]


class OpenTarget:
    """A target's writers; shards that an earlier run finished are left alone."""

    def __init__(self, target: Target, stack: ExitStack) -> None:
        self.types = target.types
        self.writer_of: dict[str, GGUFWriter] = {}
        self.writers: list[GGUFWriter] = []
        for path, layout in zip(shard_paths(target.path, len(target.layouts)), target.layouts, strict=True):
            if path.exists():
                continue
            writer = stack.enter_context(GGUFWriter(path, layout))
            self.writers.append(writer)
            self.writer_of.update(dict.fromkeys(layout.tensors.keys() - writer.completed, writer))

    def write(self, name: str, data: torch.Tensor) -> None:
        self.writer_of.pop(name).write(name, data)

    def finish(self) -> None:
        for writer in self.writers:
            writer.finish()


def quantize_files(
    targets: Sequence[Target],
    stream: Callable[[frozenset[str]], Iterable[tuple[str, torch.Tensor]]],
    importance: Importance,
    mode: Mode,
    advance: Callable[[int], None],
) -> None:
    """Write every target. ``stream(names)`` yields those source tensors; ``advance`` counts bytes written.

    A killed run goes on after its last finished tensor and gives the same bytes. Memory: the largest tensor, its
    fp32 copy inside ``quantize``, and one quantized copy.
    """
    with ExitStack() as stack:
        opened = [OpenTarget(target, stack) for target in targets]
        for target, files in zip(targets, opened, strict=True):
            advance(
                sum(e.nbytes for lay in target.layouts for e in lay.tensors.values() if e.name not in files.writer_of)
            )
        wanted = frozenset(name for files in opened for name in files.writer_of)
        for name, tensor in stream(wanted) if wanted else ():
            waiting = [files for files in opened if name in files.writer_of]
            rows = tensor.reshape(-1, tensor.shape[-1])
            for type in sorted({files.types[name] for files in waiting}):
                data = quantize(rows, type, importance(name), mode)
                for files in waiting:
                    if files.types[name] == type:
                        files.write(name, data)
                        advance(data.numel())
        for files in opened:
            files.finish()

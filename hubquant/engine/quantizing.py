"""All file types in one pass: each source tensor is read once and quantized once to every distinct type.

Threads share the work as slices of rows, of several tensors and types at a time, while the next tensor is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from hubquant.gguf_file import GGUFWriter, Layout, shard_paths
from hubquant.quants import quantize

Mode = Literal["exact", "best"]
Importance = Callable[[str], torch.Tensor | None]

_SLICE = 1 << 22  # weights of one job
_SLICE_ROWS = 16  # kernels work on 16 blocks at a time: slices of whole 16 rows give the bytes of the whole
_IN_FLIGHT = 1 << 26  # weights of the tensors that are being quantized; a larger one goes alone


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


@dataclass(frozen=True)
class Quantizing:
    """A tensor whose rows are being quantized to each of its types."""

    name: str
    n_weights: int
    slices: Mapping[str, Sequence[Future[torch.Tensor]]]

    def data(self, type: str) -> torch.Tensor:
        """uint8 [rows, row_bytes], when all slices are done."""
        return torch.cat([part.result() for part in self.slices[type]])


def quantize_files(
    targets: Sequence[Target],
    stream: Callable[[frozenset[str]], Iterable[tuple[str, torch.Tensor]]],
    importance: Importance,
    mode: Mode,
    advance: Callable[[int], None],
) -> None:
    """Write every target. ``stream(names)`` yields those source tensors; ``advance`` counts bytes written.

    As many threads as torch has. A killed run goes on after its last finished tensor and gives the same bytes. Memory:
    the tensors in flight and the one being read, their quantized forms, and a piece in fp32 for each thread.
    """
    with ExitStack() as stack:
        opened = [OpenTarget(target, stack) for target in targets]
        for target, files in zip(targets, opened, strict=True):
            advance(
                sum(e.nbytes for lay in target.layouts for e in lay.tensors.values() if e.name not in files.writer_of)
            )
        pool = stack.enter_context(ThreadPoolExecutor(torch.get_num_threads()))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        queue: deque[Quantizing] = deque()
        wanted = frozenset(name for files in opened for name in files.writer_of)
        for name, tensor in stream(wanted) if wanted else ():
            while queue and sum(waiting.n_weights for waiting in queue) + tensor.numel() > _IN_FLIGHT:
                _write(queue.popleft(), opened, advance)
            types = sorted({files.types[name] for files in opened if name in files.writer_of})
            queue.append(_submit(pool, name, tensor, types, importance(name), mode))
        while queue:
            _write(queue.popleft(), opened, advance)
        for files in opened:
            files.finish()


def _submit(
    pool: ThreadPoolExecutor,
    name: str,
    tensor: torch.Tensor,
    types: Sequence[str],
    importance: torch.Tensor | None,
    mode: Mode,
) -> Quantizing:
    """``importance`` is [n], or [n_mat, n] for a tensor of so many matrices."""
    n = tensor.shape[-1]
    weights = list(importance) if importance is not None and importance.dim() == 2 else [importance]
    step = max(1, _SLICE // (_SLICE_ROWS * n)) * _SLICE_ROWS
    slices = [
        (part, of_columns)
        for rows, of_columns in zip(tensor.reshape(len(weights), -1, n), weights, strict=True)
        for part in torch.split(rows, step)
    ]
    return Quantizing(
        name,
        tensor.numel(),
        {
            type: [pool.submit(quantize, part, type, of_columns, mode, threads=1) for part, of_columns in slices]
            for type in types
        },
    )


def _write(tensor: Quantizing, opened: Sequence[OpenTarget], advance: Callable[[int], None]) -> None:
    for type in tensor.slices:
        data = tensor.data(type)
        for files in opened:
            if tensor.name in files.writer_of and files.types[tensor.name] == type:
                files.write(tensor.name, data)
                advance(data.numel())

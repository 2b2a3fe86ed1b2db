"""All file types in one pass: each source tensor is read once and quantized once to every distinct type.

Threads share the work as slices of rows, of several tensors and types at a time, while the next tensor is read and
finished ones are written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from hubquant.devices import torch_threads
from hubquant.errors import CheckpointError
from hubquant.gguf_file import GGUFWriter, Layout, shard_paths
from hubquant.quants import quantize

Mode = Literal["exact", "best"]
ImportanceOf = Callable[[str], torch.Tensor | None]
Rounding = Callable[[int, torch.Tensor, str, torch.Tensor | None], torch.Tensor]
"""Of a weight: the number of a matrix, its rows, a type and the importance of its columns -> uint8 [rows, row_bytes],
of all rows at once."""
StoredBytes = Callable[[str, str], torch.Tensor | None]
TypesByTensor = Mapping[str, Collection[str]]
Made = tuple[str, bool]
"""A type, and whether importance weighs the errors of what is quantized to it."""
Slices = dict[Made, Sequence[Future[torch.Tensor]]]
"""uint8 [rows, row_bytes] of one slice of a tensor's rows after the other."""

_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SLICE = 1 << 22  # weights of one job
_SLICE_ROWS = 16  # kernels work on 16 blocks at a time: slices of whole 16 rows give the bytes of the whole
_IN_FLIGHT = 1 << 26  # weights of the tensors that are being quantized; a larger one goes alone


@dataclass(frozen=True)
class Target:
    """A file to write: ``layouts`` are its shards, ``path`` names the unsharded file, ``types`` covers every tensor.
    Importance counts where it is ``weighted``."""

    path: Path
    layouts: Sequence[Layout]
    types: Mapping[str, str]
    weighted: bool = True


class OpenTarget:
    """A target's writers; shards that an earlier run finished are left alone."""

    def __init__(self, target: Target, stack: ExitStack) -> None:
        self._types, self._weighted = target.types, target.weighted
        self.writer_of: dict[str, GGUFWriter] = {}
        self.writers: list[GGUFWriter] = []
        for path, layout in zip(shard_paths(target.path, len(target.layouts)), target.layouts, strict=True):
            if layout.fits(path):
                continue
            writer = stack.enter_context(GGUFWriter(path, layout))
            self.writers.append(writer)
            self.writer_of.update(dict.fromkeys(layout.tensors.keys() - writer.completed, writer))

    def made(self, name: str) -> Made:
        """How a tensor is written."""
        return self._types[name], self._weighted

    def write(self, name: str, parts: Sequence[torch.Tensor]) -> None:
        self.writer_of[name].write(name, *parts)

    def finish(self) -> None:
        for writer in self.writers:
            writer.finish()


def quantize_files(
    targets: Sequence[Target],
    stream: Callable[[TypesByTensor], Iterable[tuple[str, torch.Tensor]]],
    importance: ImportanceOf,
    mode: Mode,
    advance: Callable[[int], None],
    stored: StoredBytes = lambda _name, _type: None,
    plain: ImportanceOf = lambda _name: None,
    rounding: Callable[[str], tuple[int, Rounding] | None] = lambda _name: None,
) -> None:
    """Write every target. ``stream`` is given names with the types to write and yields those source tensors, in floats
    or in the bytes of the type; ``advance`` counts bytes written. Of what is ``stored`` in a type already, uint8
    [rows, row_bytes], the bytes stay as they are. ``plain`` is the importance of targets that are not weighted.
    ``rounding`` of a tensor is called when it was yielded, and gives the number of its matrices with how those are
    rounded, or None where ``mode`` says it.

    As many threads as torch has. A killed run goes on after its last finished tensor and gives the same bytes. Memory:
    the tensors in flight and the one being read, their quantized forms, and a piece in fp32 for each thread.
    """
    with ExitStack() as stack:
        opened = [OpenTarget(target, stack) for target in targets]
        for target, files in zip(targets, opened, strict=True):
            advance(
                sum(e.nbytes for lay in target.layouts for e in lay.tensors.values() if e.name not in files.writer_of)
            )
        n_threads = torch.get_num_threads()
        stack.enter_context(torch_threads(1))  # of each thread here: torch's own would wait for the next call in a loop
        pool = _open_pool(stack, n_threads)
        writing = _open_pool(stack, 1)
        queue: deque[tuple[int, Future[None]]] = deque()
        wanted: dict[str, set[Made]] = {}
        for files in opened:
            for name in files.writer_of:
                wanted.setdefault(name, set()).add(files.made(name))
        types = {name: {type for type, _ in ways} for name, ways in wanted.items()}
        for name, tensor in stream(types) if types else ():
            while queue and (queue[0][1].done() or sum(n for n, _ in queue) + tensor.numel() > _IN_FLIGHT):
                queue.popleft()[1].result()
            kept = {way: data for way in wanted[name] if (data := stored(name, way[0])) is not None}
            ways = sorted(wanted[name] - kept.keys())
            slices: Slices = {way: [pool.submit(data.contiguous)] for way, data in kept.items()}
            for weighted, importance_of in ((True, importance), (False, plain)):
                if own := [way for way in ways if way[1] == weighted]:
                    if (special := rounding(name)) is not None:
                        slices |= _submit_whole(pool, name, tensor, own, importance_of(name), *special)
                    else:
                        slices |= _submit(pool, name, tensor, own, importance_of(name), mode)
            queue.append((tensor.numel(), writing.submit(_write, name, slices, opened, advance)))
            del tensor, slices, kept  # the next one is read while these names would hold them
        for _, written in queue:
            written.result()
        for files in opened:
            files.finish()


def _open_pool(stack: ExitStack, n_threads: int) -> ThreadPoolExecutor:
    """Threads that end with what they are at when ``stack`` closes."""
    pool = stack.enter_context(ThreadPoolExecutor(n_threads))
    stack.callback(pool.shutdown, wait=False, cancel_futures=True)
    return pool


def matrices(
    tensor: torch.Tensor, importance: torch.Tensor | None, count: int = 1
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Each matrix [rows, n] of a tensor [..., rows, n], with its importance: of one [n] or none there are ``count``, of
    [n_mat, n] so many."""
    each = list(importance) if importance is not None and importance.dim() == 2 else [importance] * count
    return list(zip(tensor.reshape(len(each), -1, tensor.shape[-1]), each, strict=True))


def _submit(
    pool: ThreadPoolExecutor,
    name: str,
    tensor: torch.Tensor,
    ways: Sequence[Made],
    importance: torch.Tensor | None,
    mode: Mode,
) -> Slices:
    """``importance`` is [n], or [n_mat, n] for a tensor of so many matrices."""
    step = max(1, _SLICE // (_SLICE_ROWS * tensor.shape[-1])) * _SLICE_ROWS
    slices = [
        (part, of_columns) for rows, of_columns in matrices(tensor, importance) for part in torch.split(rows, step)
    ]
    return {
        way: [pool.submit(_stored, name, part, way[0], of_columns, mode) for part, of_columns in slices] for way in ways
    }


def _submit_whole(
    pool: ThreadPoolExecutor,
    name: str,
    tensor: torch.Tensor,
    ways: Sequence[Made],
    importance: torch.Tensor | None,
    n_matrices: int,
    rounding: Rounding,
) -> Slices:
    """As :func:`_submit`, of whole matrices."""
    found = matrices(tensor, importance, n_matrices)

    def job(number: int, type: str) -> torch.Tensor:
        rows, columns = found[number]
        if type in _FLOATS or tensor.dtype == torch.uint8:
            return _stored(name, rows, type, columns, "best")
        return rounding(number, rows, type, columns)

    slices: dict[Made, list[Future[torch.Tensor]]] = {way: [] for way in ways}
    for number in range(n_matrices):  # all types of one after the other: they share much of the work
        for way in ways:
            slices[way].append(pool.submit(job, number, way[0]))
    return dict(slices)


def _stored(name: str, rows: torch.Tensor, type: str, importance: torch.Tensor | None, mode: Mode) -> torch.Tensor:
    """uint8 [rows, row_bytes]; what has its type already stays where it lies."""
    if rows.dtype in (torch.uint8, _FLOATS.get(type)):
        return rows.contiguous().view(torch.uint8)
    data = quantize(rows, type, importance, mode, threads=1)
    if type == "F16" and not torch.stack(data.view(torch.float16).aminmax()).isfinite().all():
        raise CheckpointError(
            f"tensor {name} holds weights that F16 cannot",
            why="its largest is 65,504, and they would become infinite",
            hint="choose BF16 or F32 instead",
        )
    return data


def _write(name: str, slices: Slices, opened: Sequence[OpenTarget], advance: Callable[[int], None]) -> None:
    for way, futures in slices.items():
        parts = [future.result() for future in futures]
        for files in opened:
            if name in files.writer_of and files.made(name) == way:
                files.write(name, parts)
                advance(sum(part.numel() for part in parts))

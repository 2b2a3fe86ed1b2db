"""All inputs on their way through a model that streams, and what a killed process leaves of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubquant.models.snapshot import KeptState, Snapshot
from hubquant.models.stream import BlockOutput, BlockPass, BlockStream

_HIDDEN = "hidden"
_LEAVES = "leaves"


def outputs_of(passes: Sequence[BlockPass]) -> dict[str, Tensor]:
    """What each input waits with: a tensor, or a tuple of tensors and nothing else that matters."""
    hidden: dict[str, Tensor] = {}
    leaves = 0
    for i, each in enumerate(passes):
        parts = each.output if isinstance(each.output, tuple) else (each.output,)
        leaves = len(parts) if isinstance(each.output, tuple) else 0
        hidden |= {f"{_HIDDEN}:{i}:{k}": x.contiguous().cpu() for k, x in enumerate(parts) if isinstance(x, Tensor)}
    return {**hidden, _LEAVES: torch.tensor(leaves)}


def output_of(tensors: Mapping[str, Tensor], number: int) -> BlockOutput:
    """What the input of this ``number`` waits with, of what :func:`outputs_of` gave."""
    leaves = int(tensors[_LEAVES])
    parts = [tensors.get(f"{_HIDDEN}:{number}:{k}") for k in range(max(1, leaves))]
    return tuple(parts) if leaves else parts[0]


@contextmanager
def before_output(
    stream: BlockStream,
    inputs: Sequence[Tensor],
    forward: Callable[[Tensor], Any],
    kept: KeptState | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[list[BlockPass]]:
    """``inputs``, token ids [n] each, when they have passed all blocks; the output layer is still to be loaded.
    ``forward`` runs the model for ids [1, n].

    ``advance`` counts inputs passing a block. With ``kept`` a killed process goes on after the last block whose outputs
    were kept, and in the end those of the last block are.
    """
    found = kept.found() if kept else None
    first = found.chunks_done if found else 0
    advance(first * len(inputs))
    with torch.no_grad(), stream.pausing():
        stream.weights.load_rest(torch.cat([*inputs]))
        passes = [
            stream.start(ids[None], forward, first, output_of(found.tensors, i) if found else None)
            for i, ids in enumerate(inputs)
        ]
        for block in stream.loaded(first):
            for each in passes:
                each.step()
                advance(1)
            last = block + 1 == stream.n_blocks
            if kept and (last or all(each.resumable for each in passes)):
                kept.keep(partial(_state, passes, block + 1), last=last)
        yield passes


def _state(passes: Sequence[BlockPass], blocks_done: int) -> Snapshot:
    return Snapshot(outputs_of(passes), blocks_done)


class LastOutputs(Mapping[str, Tensor]):
    """What the last block gave for each input, from the file that :func:`before_output` kept it in, read by input."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        opened: Any = safe_open
        self._file = opened(path, framework="pt")
        self._names = set(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

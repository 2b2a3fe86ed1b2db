"""A model that is never in memory as a whole: its blocks come one after the other, and all inputs pass each of them.

Every input runs through transformers' own forward method, which stops before each block until it is that block's turn.
So nothing has to be known of what happens between blocks, and what an input needs to go on is its own stack frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from greenlet import getcurrent, greenlet

from hubquant.models.streamed_weights import Empty, StreamedWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BlockOutput = Any
"""What a block returns: hidden states, or a tuple that begins with them."""

Keep = Callable[["BlockPass", BlockOutput], BlockOutput]
"""Puts what a block returned where it is to wait for the next one."""


def in_memory(_pass: BlockPass, output: BlockOutput) -> BlockOutput:
    return output


class _Frames(greenlet):  # type: ignore[misc]
    """The stack frames of a forward method that waits."""

    owner: BlockPass


@dataclass(eq=False)
class BlockPass:
    """One input on its way through the model, before the block that is next.

    ``output`` is what the block before returned, and all that the next one needs if the pass is ``resumable``.
    ``buffers`` and ``spare`` belong to whoever keeps outputs.
    """

    ids: torch.Tensor
    frames: _Frames
    output: BlockOutput = None
    resumable: bool = True
    buffers: list[torch.Tensor] = field(default_factory=list)
    spare: list[torch.Tensor] = field(default_factory=list)

    def step(self) -> Any:
        """Through the next block; after the last one through the rest, which gives the model's output."""
        return self.frames.switch()

    def pause(self) -> None:
        """Called in the frames: back to whoever called ``step``."""
        self.frames.parent.switch()

    def drop(self) -> None:
        """Give up what has not been run."""
        self.frames.throw()


class BlockStream:
    """The blocks of a model in turn. ``keep`` says where hidden states wait, ``empty`` where the output layer is."""

    def __init__(self, weights: StreamedWeights, keep: Keep = in_memory, empty: Empty = torch.empty) -> None:
        self.weights = weights
        self.model: PreTrainedModel = weights.skeleton
        self.n_blocks = len(weights.blocks)
        self._keep, self._empty = keep, empty
        self._next = 0

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """While every block waits for its turn."""
        originals = [block.forward for block in self.weights.blocks]
        for number, (block, forward) in enumerate(zip(self.weights.blocks, originals, strict=True)):
            block.forward = self._waiting(number, forward)
        try:
            yield
        finally:
            for block, forward in zip(self.weights.blocks, originals, strict=True):
                block.forward = forward

    def start(
        self, ids: torch.Tensor, forward: Callable[[torch.Tensor], Any], done: int = 0, output: BlockOutput = None
    ) -> BlockPass:
        """An input [1, n] before block ``done``, which gets ``output`` from the one before, wherever that is now."""
        self._next = done
        result = BlockPass(ids, _Frames(lambda: forward(ids)), self._on_device(output))
        result.frames.owner = result
        result.frames.switch()
        return result

    def loaded(self, first: int = 0) -> Iterator[int]:
        """Each block from ``first`` on while it is in memory; the next one is read meanwhile."""
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self.weights.read, first) if first < self.n_blocks else None
            for number in range(first, self.n_blocks):
                assert ahead is not None
                self.weights.load(number, ahead.result())
                ahead = reader.submit(self.weights.read, number + 1) if number + 1 < self.n_blocks else None
                self._next = number + 1
                yield number
                self.weights.unload(number)

    def load_output(self) -> None:
        self.weights.load_output(self._empty)

    @contextmanager
    def stopping_at_output(self) -> Iterator[None]:
        """While an input that passed all blocks goes no further than into the output layer, which need not be loaded:
        its hooks see what it is called with."""
        output = self.weights.output
        original = output.forward
        output.forward = lambda *_args, **_kwargs: getcurrent().owner.pause()
        try:
            yield
        finally:
            output.forward = original

    def _on_device(self, output: BlockOutput) -> BlockOutput:
        if isinstance(output, tuple):
            return tuple(map(self._on_device, output))
        return output.to(self.weights.device) if isinstance(output, torch.Tensor) else output

    def _waiting(self, number: int, forward: Callable[..., BlockOutput]) -> Callable[..., BlockOutput]:
        def wait(*args: Any, **kwargs: Any) -> BlockOutput:
            current: BlockPass = getcurrent().owner
            if number >= self._next:  # else it was passed before this run
                current.pause()
                current.output = self._keep(current, forward(*args, **kwargs))
                # A container that blocks share may carry more than hidden states from one to the next.
                current.resumable = current.resumable and not any(
                    isinstance(value, MutableMapping) for value in kwargs.values()
                )
            if number == self.n_blocks - 1:
                current.pause()
            return current.output

        return wait

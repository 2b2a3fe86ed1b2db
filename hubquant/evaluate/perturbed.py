"""How far a model goes from its own predictions when some of its weights have other numbers.

It streams. What is before such a weight gives what it always gives: only the blocks from its own on are run again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hubquant.calibration.chunks import Chunks
from hubquant.evaluate.scoring import finite
from hubquant.evaluate.sensitivity import mean_kld
from hubquant.evaluate.streamed import Advance, run_streamed
from hubquant.models.passes import output_of, outputs_of
from hubquant.models.replaced import replaced
from hubquant.models.stream import BlockOutput, BlockPass, BlockStream

Weights = Mapping[str, Tensor]
"""Floats by the names of a checkpoint."""
Passes = Sequence[BlockPass]
"""Of each chunk."""


class Perturbed:
    """Compares the model of ``stream`` with what it is when some weights are others, by its predictions for the last
    ``n_scored`` tokens of each of ``chunks`` but the very last. Blocks come in their order, from the ``first`` one on.

    ``advance`` counts chunks passing a block. Raises ``EvaluationError`` when a logit is not finite.
    """

    def __init__(self, stream: BlockStream, chunks: Chunks, n_scored: int, first: int, advance: Advance) -> None:
        self._stream, self._chunks, self._n_scored, self._advance = stream, chunks, n_scored, advance
        self._waiting: list[BlockOutput] = [None] * len(chunks)
        stream.weights.load_rest(chunks.ids)
        stream.load_output()
        passes = self._start(0)
        for block in stream.loaded():
            if block == first:
                self._waiting = _copied(passes)
            self._step(passes)
        self._resumable = all(each.resumable for each in passes)
        self._base = [self._logits(each).float().log_softmax(1) for each in passes]

    def in_block(self, block: int, n: int, others: Iterator[Weights]) -> list[float]:
        """Mean divergences over all scored tokens, in nats, with each of ``n`` ``others``, which are weights of this
        block and are asked for when it is loaded. No block before it can be asked for afterwards."""
        first = block if self._resumable else 0
        variants, own = [self._start(first) for _ in range(n)], self._start(first)
        for number in self._stream.loaded(first):
            for passes in variants:
                if number == block:
                    with replaced(self._stream.weights, next(others)):
                        self._step(passes)
                else:
                    self._step(passes, counts=number > block)
            if number <= block:
                self._step(own, counts=False)
            if number == block:
                self._waiting = [each.output if self._resumable else None for each in own]
                for each in own:
                    each.drop()
        return [self._divergence(passes) for passes in variants]

    def outside(self, other: Weights) -> float:
        """The mean divergence with ``other`` weights that are in no block."""
        with replaced(self._stream.weights, other):
            passes = self._start(0)
        for _ in self._stream.loaded():
            self._step(passes)
        with replaced(self._stream.weights, other):
            return self._divergence(passes)

    def _start(self, block: int) -> list[BlockPass]:
        waiting = self._waiting if block else [None] * len(self._chunks)
        return [
            self._stream.start(ids[None], self._forward, block, output)
            for ids, output in zip(self._chunks.ids, waiting, strict=True)
        ]

    def _forward(self, ids: Tensor) -> Any:
        return run_streamed(self._stream, ids, self._n_scored + 1)

    def _step(self, passes: Passes, *, counts: bool = True) -> None:
        for each in passes:
            each.step()
            if counts:
                self._advance(1)

    def _logits(self, waiting: BlockPass) -> Tensor:
        """[n_scored, n_vocab]"""
        return finite(waiting.step().logits[0, :-1])

    def _divergence(self, passes: Passes) -> float:
        found = [mean_kld(self._logits(each), base) for each, base in zip(passes, self._base, strict=True)]
        return math.fsum(found) / len(found)


@contextmanager
def perturbing(
    stream: BlockStream, chunks: Chunks, n_scored: int, first: int, advance: Advance = lambda _: None
) -> Iterator[Perturbed]:
    """A :class:`Perturbed`, while no gradients are computed and every block waits for its turn."""
    with torch.no_grad(), stream.pausing():
        yield Perturbed(stream, chunks, n_scored, first, advance)


def _copied(passes: Passes) -> list[BlockOutput]:
    """What they wait with: the tensors themselves are written over."""
    tensors = {name: x.clone() for name, x in outputs_of(passes).items()}
    return [output_of(tensors, number) for number in range(len(passes))]

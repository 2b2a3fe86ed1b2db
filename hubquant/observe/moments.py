"""Second moments E[x xᵀ] of the inputs of weights, block after block of a model that streams, then of its output layer.

They are as large as the weights, and are gathered for one block at a time and dropped after their use.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hubquant.calibration.chunks import Chunks
from hubquant.devices import torch_threads
from hubquant.models.taps.tap import Tap, attached, find
from hubquant.observe.collection import CollectionRequest, keys_of
from hubquant.observe.collector import run_model
from hubquant.observe.lookups import lookup_moments
from hubquant.observe.moment_sums import MomentSum, is_held_out

if TYPE_CHECKING:
    from hubquant.models.stream import BlockStream

TOKEN_EMBEDDING = "token_embd.weight"


@dataclass(frozen=True, eq=False)
class WeightMoments:
    """Of the inputs of one weight: what it is rounded by, and of text that was held out what tells how good that is.
    ``order`` is that of its columns (:meth:`Tap.order`). Of several sums the moments add up."""

    seen: Sequence[MomentSum]
    held_out: Sequence[MomentSum]
    order: Tensor | None

    @property
    def n_matrices(self) -> int:
        return len(self.seen[0].counts)

    @property
    def inputs(self) -> Hashable:
        """Equal for weights that have the same."""
        return tuple(self.seen), None if self.order is None else tuple(self.order.tolist())

    def of(self, matrix: int) -> tuple[Tensor, Tensor]:
        """Both moments of one of its matrices, float32 [n_in, n_in]."""
        return self._moment(self.seen, matrix), self._moment(self.held_out, matrix)

    def _moment(self, sums: Sequence[MomentSum], matrix: int) -> Tensor:
        found = sums[0].moment(matrix)
        for each in sums[1:]:
            found += each.moment(matrix)
        return found if self.order is None else found[self.order][:, self.order]


@dataclass(eq=False)
class _Gathered:
    """Of one block. ``held_out`` tells which of both sums a chunk is for, and ``left_out`` whether one of its inputs
    was not finite."""

    totals: dict[bool, dict[str, MomentSum]] = field(default_factory=lambda: {False: {}, True: {}})
    held_out: bool = False
    left_out: bool = False

    def see(self, key: str, x: Tensor) -> None:
        self.see_expert(key, 0, 1, x)

    def see_expert(self, key: str, expert: int, n_experts: int, x: Tensor) -> None:
        self.left_out = self.left_out or not bool(x.isfinite().all())
        if not self.left_out:
            totals = self.totals[self.held_out]
            if key not in totals:
                totals[key] = MomentSum.zeros(n_experts, x)
            totals[key].add(expert, x)


def moments_by_block(
    stream: BlockStream,
    chunks: Chunks,
    weights: Collection[str],
    taps: Mapping[str, Tap],
    n_threads: int,
) -> Iterator[Mapping[str, WeightMoments]]:
    """For each block those of the ``weights`` that are in it; then that of the output layer, which is not loaded for
    that; in the end that of the token embedding, for which the model runs once more
    (:func:`hubquant.observe.lookups.lookup_moments`). ``taps`` has all that have inputs. torch computes them in
    ``n_threads``: elsewhere it may have fewer meanwhile.

    An embedding that is the output layer too has the sum of both: an error in the row of a token costs as much as it is
    predicted and as it is looked up, which is about as often. A chunk with an input that is not finite is left out from
    there on. At least two chunks are needed.
    """
    predicted: WeightMoments | None = None
    wanted = {name: tap for name, tap in taps.items() if name in weights}
    with torch.no_grad():
        stream.weights.load_rest(chunks.ids)
        for found in _by_step(stream, chunks, wanted, n_threads) if wanted else ():
            predicted = found.pop(TOKEN_EMBEDDING, None)
            yield found
            del found  # before the next
        if TOKEN_EMBEDDING in weights:
            stream.load_output()
            with torch_threads(n_threads):
                lookups = lookup_moments(stream, chunks)
            if all(each.counts.all() for each in lookups.values()):
                both = predicted or WeightMoments([], [], None)
                yield {
                    TOKEN_EMBEDDING: WeightMoments(
                        [*both.seen, lookups[False]], [*both.held_out, lookups[True]], both.order
                    )
                }


def _by_step(
    stream: BlockStream, chunks: Chunks, taps: Mapping[str, Tap], n_threads: int
) -> Iterator[dict[str, WeightMoments]]:
    """Of the weights that ``taps`` name, by block and of the output layer."""
    keys = keys_of(taps)
    with_output = any(find(stream.model, tap.module) is stream.weights.output for tap in taps.values())

    def forward(ids: Tensor) -> Any:
        return run_model(stream.model, ids, CollectionRequest(process_output=with_output))

    with stream.pausing():
        passes = [stream.start(ids[None], forward) for ids in chunks.ids]
        left_out = [False] * len(passes)

        def step() -> dict[str, WeightMoments]:
            gathered = _Gathered()
            attaching = attached(stream.model, {key: taps[key] for key in keys.values()}, gathered)
            with attaching, torch_threads(n_threads):
                for number, each in enumerate(passes):
                    gathered.held_out, gathered.left_out = is_held_out(number, len(passes)), left_out[number]
                    each.step()
                    left_out[number] = gathered.left_out
            seen, held_out = gathered.totals[False], gathered.totals[True]
            return {
                weight: WeightMoments([seen[key]], [held_out[key]], taps[weight].order())
                for weight, key in keys.items()
                if key in seen and key in held_out
            }

        for _ in stream.loaded():
            yield step()
        if with_output:
            with stream.stopping_at_output():
                yield step()
        for each in passes:
            each.drop()


def held_out(chunks: Chunks) -> Chunks:
    """Those that only measure."""
    return chunks.part([number for number in range(len(chunks)) if is_held_out(number, len(chunks))])

"""Collect an importance matrix from pictures that are drawn one after the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hubquant.models.snapshot import KeptState, Snapshot
from hubquant.observe.collection import SnapshotPlace, sample_of_weights
from hubquant.observe.pictures import PictureSums
from hubquant.version import __version__


def collect_pictures(
    sums: PictureSums,
    draw_one: Callable[[int], Any],
    numbers: Sequence[int],
    *,
    keeping: SnapshotPlace | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> PictureSums:
    """``sums`` with what their pipeline sees while ``draw_one`` draws each of ``numbers``, by which it knows prompts
    and seeds, and gives the pictures as pipelines do: a tensor or list of them.

    Pictures in which an activation is not finite are left out. ``advance`` counts numbers. With ``keeping``, whose
    ``source`` tells prompts, seeds and settings, the state is kept in a file after each, and a killed collection goes
    on from there with bit-identical results; the file stays until the caller, who has saved the matrix, removes it.
    """
    kept = KeptState(keeping.path, _fingerprint(sums, numbers, keeping.source), keeping.seconds) if keeping else None
    first = 0
    if kept and (found := kept.found()):
        sums.restore(found.tensors)
        first = found.chunks_done
        advance(first)
    with sums.observing():
        for done, number in enumerate(numbers[first:], first + 1):
            sums.settle(draw_one(number))
            advance(1)
            if kept:
                kept.keep(partial(_snapshot, sums, done), last=done == len(numbers))
    return sums


def _snapshot(sums: PictureSums, done: int) -> Snapshot:
    return Snapshot(sums.state(), done)


def _fingerprint(sums: PictureSums, numbers: Sequence[int], source: str) -> str:
    digest = hashlib.sha256()
    for component, module in sums.modules.items():
        digest.update(component.encode() + sample_of_weights(module))
    known = [[*sums.layers], [*numbers], sums.sums.kind, source, __version__]
    digest.update(json.dumps(known).encode())
    return digest.hexdigest()

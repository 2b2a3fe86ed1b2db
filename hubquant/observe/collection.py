"""What a collection has gathered so far: the same whether the model is in memory or streams through it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch

from hubquant.calibration.chunks import Chunks
from hubquant.errors import ImatrixError
from hubquant.imatrix.matrix import CALIBRATION, Entry, ImportanceMatrix
from hubquant.models.snapshot import SNAPSHOT_SECONDS, KeptState, Snapshot
from hubquant.models.taps.observer import Observer, Together
from hubquant.models.taps.tap import Reordered, Tap, attached
from hubquant.observe.sums import InputSums
from hubquant.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OUTPUT = "output.weight"

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Negative log-likelihoods [n] of the scored tokens of a chunk, from its ids [chunk_size] and its last logits."""


@dataclass(frozen=True)
class CollectionRequest:
    """What a collection is to give: sums of the output layer's inputs too with ``process_output``, the likelihood of
    the text with ``score``, and a matrix with these facts in its ``provenance``."""

    process_output: bool = False
    score: Score | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SnapshotPlace:
    """Where the state of a collection is kept, and at most how often, but never for more than a twentieth of the time;
    ``source`` tells models apart."""

    path: Path
    source: str = ""
    seconds: float = SNAPSHOT_SECONDS


def collected_names(weights: Iterable[str], process_output: bool) -> tuple[str, ...]:
    """Which of the weights that multiply activations get an entry: those of the blocks, and with ``process_output`` the
    output layer too, unless it is the token embedding (llama-imatrix's rule)."""
    blocks = ("blk.", "enc.blk.")
    return tuple(name for name in weights if name.startswith(blocks) or (process_output and name == OUTPUT))


def keys_of(taps: Mapping[str, Tap]) -> dict[str, str]:
    """Weight -> the key under which its inputs are shown: the first weight whose tap sees the same."""
    first: dict[Tap, str] = {}
    return {
        weight: first.setdefault(tap.seen if isinstance(tap, Reordered) else tap, weight)
        for weight, tap in taps.items()
    }


@dataclass(eq=False)
class Collection:
    """``done`` chunks were run, the ``skipped`` among them (counted from 1) left out; ``nll`` are their scores.

    ``others`` are observers of the same pass as the sums; a batch counts for all of them or for none.
    """

    chunks: Chunks
    taps: Mapping[str, Tap]
    wanted: CollectionRequest
    others: Sequence[Observer] = ()
    done: int = 0
    sums: InputSums = field(default_factory=InputSums)
    skipped: list[int] = field(default_factory=list)
    nll: list[torch.Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, chunks: Chunks, taps: Mapping[str, Tap], wanted: CollectionRequest, others: Sequence[Observer]) -> Self:
        names = collected_names(taps, wanted.process_output)
        return cls(chunks, {name: taps[name] for name in names}, wanted, others)

    @property
    def observer(self) -> Together:
        """The sums and the others."""
        return Together((self.sums, *self.others))

    @property
    def keys(self) -> dict[str, str]:
        return keys_of(self.taps)

    @contextmanager
    def observing(self, model: PreTrainedModel) -> Iterator[None]:
        """While the observers are shown what flows into the weights of ``model``."""
        with attached(model, {key: self.taps[key] for key in self.keys.values()}, self.observer):
            yield

    def skip(self, chunk: int) -> None:
        """Leave out a chunk, counted from 0. ``ImatrixError`` when it was the last one."""
        self.skipped.append(chunk + 1)
        if len(self.skipped) == len(self.chunks):
            raise ImatrixError(
                "no chunk can be used",
                why="in each of them an activation is NaN, infinite or too large to be squared",
                hint="check the weights: such a model computes nothing",
            )

    def matrix(self) -> ImportanceMatrix:
        """What has been collected so far."""
        entries = {}
        for weight, key in self.keys.items():
            total = self.sums.totals.get(key)
            if total is not None:
                order = self.taps[weight].order()
                sum2, sum_ = (x.cpu() if order is None else x.cpu()[:, order] for x in (total.sum2, total.sum))
                entries[weight] = Entry(sum2, total.counts, sum_)
        facts = {"version": __version__, CALIBRATION: self.chunks.fingerprint, **self.wanted.provenance}
        if self.skipped:
            facts["skipped_chunks"] = ", ".join(map(str, self.skipped))
        counted = self.done - len(self.skipped)
        return ImportanceMatrix(entries, self.chunks.datasets, self.chunks.chunk_size, counted, facts)

    def state(self) -> Snapshot:
        tensors = self.observer.state() | {"skipped": torch.tensor(self.skipped, dtype=torch.int64)}
        if self.nll:
            tensors["nll"] = torch.cat(self.nll)
        return Snapshot(tensors, self.done)

    def resume(self, state: Snapshot) -> None:
        self.observer.restore(state.tensors)
        self.skipped = state.tensors["skipped"].tolist()
        self.nll = [state.tensors["nll"]] if "nll" in state.tensors else []
        self.done = state.chunks_done


def kept_state(
    keeping: SnapshotPlace | None, model: PreTrainedModel, collection: Collection, **settings: object
) -> KeptState | None:
    """The file that a killed collection goes on from."""
    if keeping is None:
        return None
    known = fingerprint(model, collection, {**settings, "source": keeping.source})
    return KeptState(keeping.path, known, keeping.seconds)


def fingerprint(model: PreTrainedModel, collection: Collection, settings: Mapping[str, object]) -> str:
    """Everything the state depends on; of weights in memory, a sample of each."""
    digest = hashlib.sha256(sample_of_weights(model))
    known = {
        "config": model.config.to_dict(),
        "taps": {weight: repr(tap) for weight, tap in collection.taps.items()},
        "observer": collection.observer.kind,
        "scored": collection.wanted.score is not None,
        "hubquant": __version__,
        **settings,
    }
    digest.update(json.dumps(known, sort_keys=True, default=str).encode())
    digest.update(collection.chunks.fingerprint.encode())
    return digest.hexdigest()


def sample_of_weights(model: torch.nn.Module) -> bytes:
    """Names, shapes, types and devices of all weights, and some numbers of each that is in memory."""
    parts = []
    for name, parameter in model.named_parameters():
        parts.append(f"{name}{tuple(parameter.shape)}{parameter.dtype}{parameter.device.type}".encode())
        if not parameter.is_meta:
            step = max(1, parameter.numel() // 64)
            parts.append(parameter.detach().flatten()[::step].double().cpu().numpy().tobytes())
    return b"".join(parts)

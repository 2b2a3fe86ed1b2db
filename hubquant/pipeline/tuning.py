"""The batch that is the fastest within memory: measured once for a model on a machine, and used ever after."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from hubquant.convert.rules.rule import integer
from hubquant.devices import Device, chosen_device, free_device_memory_bytes
from hubquant.engine.limits import cores
from hubquant.engine.machine import free_memory_bytes, memory_bytes
from hubquant.engine.store import Store
from hubquant.engine.task import FP32_BYTES, Context, Cost, Task
from hubquant.engine.values import read_value
from hubquant.errors import NotSupportedYet
from hubquant.llamacpp.process import installed_version
from hubquant.pipeline.costs import LIBRARIES_BYTES, running_cost
from hubquant.pipeline.held import LoadedModel
from hubquant.pipeline.importance import score
from hubquant.pipeline.results import RESULT, Measurement
from hubquant.pipeline.turns import NoRoomError, search
from hubquant.recipe.schema import Imatrix, TextSource
from hubquant.sources.component import Component
from hubquant.units import size

if TYPE_CHECKING:
    import torch

CONTEXT = 2048
MOST_CHUNKS = 64  # at a time
LLAMA_CPP_BATCHES = (64, 4096)
SHARE = 0.9  # of the free memory that a candidate may take
HIDDEN = 12  # copies of the hidden states, with what the allocator does not give back at once
INNER = 6  # copies of the widest activation: gate, up, their product, and as much again for the same reason
WARM = 16  # tokens that are run first: the first pass of a process takes longer
TEXT_TOKENS = 8192  # different ones; longer batches repeat them


@dataclass(frozen=True)
class Candidate:
    """``batch`` tokens at a time, which llama.cpp computes ``ubatch`` by ``ubatch``; ``memory_bytes`` is an estimate of
    what they take beside the weights."""

    batch: int
    ubatch: int | None
    memory_bytes: int


@dataclass(frozen=True)
class Timed(Candidate):
    """``error`` is the standard error of the mean ``speed``, both in tokens per second."""

    speed: float
    error: float
    rounds: int


@dataclass(frozen=True)
class Tuned:
    """``winner`` is the best of ``candidates``; unless it is ``settled``, the smallest of those that may be. ``ended``
    says why no larger ones were tried."""

    context: int
    candidates: tuple[Timed, ...]
    winner: Timed
    settled: bool
    ended: str | None


class Speed(Protocol):
    """Tokens per second of one run. Raises ``NoRoomError`` where memory does not suffice."""

    def __call__(self, candidate: Candidate, /) -> float: ...


@dataclass(frozen=True, eq=False)
class Tuning(Measurement[Tuned]):
    """``seconds`` are what it may take, and no part of what it is known by."""

    component: Component
    context: int = CONTEXT
    device: Device = "auto"
    seconds: int = 60

    @property
    def type(self) -> type[Tuned]:
        return Tuned

    @property
    def step(self) -> str:
        return "tune"

    @property
    def detail(self) -> str:
        return f"batches of {self.component.source.name} for {self.context} tokens of context"

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"context": self.context, "machine": machine(self.device)}

    @abstractmethod
    def candidates(self) -> Sequence[Candidate]:
        """From the one that takes least memory."""

    @abstractmethod
    def timing(self, context: Context) -> Any:
        """A context manager that gives a ``Speed``."""

    def measure(self, folder: Path, context: Context) -> Tuned:  # noqa: ARG002
        candidates = self.candidates()
        with self.timing(context) as speed, context.progress.doing(f"timing {len(candidates)} batches in turns"):

            def guarded(i: int) -> float:
                self._check_room(candidates[i])
                return float(speed(candidates[i]))

            try:
                found = search(len(candidates), guarded, self.seconds)
            except NoRoomError as error:
                raise NotSupportedYet(
                    f"a batch of {candidates[0].batch} tokens in this memory",
                    why=str(error),
                    hint="pass a smaller --context, or free some memory",
                ) from None
        timed = tuple(
            Timed(c.batch, c.ubatch, c.memory_bytes, fmean(speeds), _error(speeds), len(speeds))
            for c, speeds in zip(candidates, found.speeds, strict=False)
        )
        return Tuned(self.context, timed, timed[found.decision.winner], found.decision.settled, found.ended)

    def _check_room(self, candidate: Candidate) -> None:
        free = free_device_memory_bytes() if chosen_device(self.device) == "cuda" else free_memory_bytes()
        if candidate.memory_bytes > SHARE * free:
            raise NoRoomError(
                f"{candidate.batch} tokens would take {size(candidate.memory_bytes)} of {size(free)} free"
            )


@dataclass(frozen=True, eq=False)
class TorchTuning(Tuning):
    """As an importance matrix is collected: of whole chunks, with sums and the perplexity."""

    kind = "tuning"

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.component.pulled}

    @property
    def cost(self) -> Cost:
        logits, weight = self.context * self.component.n_vocab, self.component.source.bytes_of_weight
        return running_cost(self.component.n_parameters, 0, logits, device=self.device, bytes_of_weight=weight)

    @property
    def shares(self) -> LoadedModel:
        return LoadedModel.by(self.component.pulled, Imatrix(), "none", self.device)

    def candidates(self) -> list[Candidate]:
        sizes = [self.context << k for k in range(MOST_CHUNKS.bit_length())]
        kept = self.context - self.context // 2
        return [
            Candidate(
                n,
                None,
                activation_bytes(self.component, n)
                + FP32_BYTES * self.component.n_vocab * kept * (n // self.context + 2),
            )
            for n in sizes
        ]

    @contextmanager
    def timing(self, context: Context) -> Iterator[Speed]:
        import torch

        from hubquant.calibration.chunks import Chunks
        from hubquant.observe import CollectionRequest, collect

        model, taps = context.held, self.component.conversion.taps
        ids = _some_ids(self.component, self.context, context)

        def run(rows: torch.Tensor) -> None:
            wanted = CollectionRequest(score=score)
            collect(model, Chunks(rows, (), (), ""), taps, wanted, batch_tokens=rows.numel())
            if chosen_device(self.device) == "cuda":
                torch.cuda.synchronize()

        def speed(candidate: Candidate) -> float:
            rows = ids.repeat(-(-candidate.batch // len(ids)))[: candidate.batch].reshape(-1, self.context)
            begin = time.perf_counter()
            try:
                run(rows)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                raise NoRoomError(f"{candidate.batch} tokens do not fit the GPU") from None
            return candidate.batch / (time.perf_counter() - begin)

        run(ids[:WARM].reshape(1, -1))
        yield speed


@dataclass(frozen=True, eq=False, kw_only=True)
class LlamaCppTuning(Tuning):
    """Of a GGUF file in llama.cpp on the CPU: n_batch and n_ubatch, for the time of a prompt as long as the context."""

    kind = "llamacpp-tuning"

    file: Task[Path]
    file_bytes: int

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"file": self.file}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {**super().made_from, "llamacpp": installed_version()}

    @property
    def cost(self) -> Cost:
        return Cost(ram_bytes=LIBRARIES_BYTES + self.file_bytes)

    def candidates(self) -> list[Candidate]:
        least, most = LLAMA_CPP_BATCHES
        top = 1 << (min(most, self.context).bit_length() - 1)
        sizes = [1 << k for k in range(min(least, top).bit_length() - 1, top.bit_length())]
        pairs = {(n, n) for n in sizes} | {(top, n) for n in sizes}
        found = [
            Candidate(
                batch, ubatch, activation_bytes(self.component, ubatch) + FP32_BYTES * self.component.n_vocab * batch
            )
            for batch, ubatch in pairs
        ]
        return sorted(found, key=lambda each: (each.memory_bytes, each.batch))

    @contextmanager
    def timing(self, context: Context) -> Iterator[Speed]:
        from hubquant.llamacpp.runner import LlamaCppRunner

        ids = _some_ids(self.component, self.context, context)[: self.context]
        with LlamaCppRunner(context.read(self.file), n_ctx=1) as runner:

            def speed(candidate: Candidate) -> float:
                assert candidate.ubatch is not None
                return len(ids) / runner.seconds(ids, candidate.batch, candidate.ubatch)

            yield speed


TUNED = "{} tokens run at a time, as hubquant tune found"


def tuned_batch(component: Component, chunk_size: int, device: Device, store: Store) -> int | None:
    """Tokens that ``hubquant tune`` is sure to be best at a time: for chunks of this size, or else for its own default
    context; None where it was not asked or not sure."""
    if not (store.root / TorchTuning.kind).is_dir():
        return None
    for context in (chunk_size, CONTEXT):
        task = TorchTuning(component, context, device)
        if store.has(task):
            with suppress(OSError, ValidationError):  # damaged, or just removed by another process
                found = read_value(store.path(task) / RESULT, Tuned)
                return found.winner.batch if found.settled else None
    return None


def most_context(component: Component) -> int | None:
    """Tokens, None where the model does not say."""
    return integer(component.conversion.metadata, f"{component.conversion.architecture}.context_length")


def activation_bytes(component: Component, n_tokens: int) -> int:
    """In float32, of a block that ``n_tokens`` pass at a time without keys and values of others; experts are as wide as
    those that a token is sent to together."""
    conversion = component.conversion
    experts = integer(conversion.metadata, f"{conversion.architecture}.expert_used_count") or 1
    inner = max(
        (
            max(shape[-2:]) * (experts if len(shape) > 2 else 1)
            for name, shape in component.shapes.items()
            if name.startswith(component.blocks) and len(shape) > 1
        ),
        default=component.width,
    )
    return FP32_BYTES * n_tokens * (HIDDEN * component.width + INNER * inner)


def machine(device: Device) -> dict[str, Any]:
    """What a speed depends on beside the model."""
    return {"memory": memory_bytes(), **_processor(), "device": _device_name(device)}


@cache
def _processor() -> dict[str, Any]:
    from hubquant.quants.cpu.vector.native import host_processor

    return {"processor": host_processor()[0], "cores": cores()}


def _device_name(device: Device) -> str:
    import torch

    if chosen_device(device) == "cuda":
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return chosen_device(device)


def _some_ids(component: Component, n: int, context: Context) -> torch.Tensor:
    """int64 [at least n], of the text that calibrates where no other is named, again and again if it is too short."""
    import torch

    from hubquant.calibration.tokens import tokenize

    needed = max(n, TEXT_TOKENS)
    tokenizer = context.read(component.pulled).tokenizer()
    ids = torch.tensor(tokenize(TextSource(bundled="calibration"), tokenizer, needed, 0).ids)
    return ids.repeat(math.ceil(needed / len(ids)))


def _error(speeds: Sequence[float]) -> float:
    return stdev(speeds) / math.sqrt(len(speeds)) if len(speeds) > 1 else 0.0

"""Models whose code transformers lacks: llama.cpp runs them, from a file of half-precision floats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.backend import GGUF
from hubquant.backends.gguf.task import QuantizedFile
from hubquant.devices import Device
from hubquant.engine.progress import Progress
from hubquant.engine.task import FP32_BYTES, Context, Cost, Task
from hubquant.errors import NotSupportedYet, UserError
from hubquant.llamacpp.process import HOW_TO_ADD, installed_version, is_installed
from hubquant.observe import collected_names
from hubquant.pipeline.costs import HALF_BYTES, LIBRARIES_BYTES, LOGIT_COPIES
from hubquant.pipeline.importance import CollectedImatrix
from hubquant.recipe.schema import Quantize
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.evaluate.runner import Runner
    from hubquant.observe import Collection, CollectionRequest, SnapshotPlace

FLOATS = "F16"
COLLECTED_WITH = "collected_with"
"""The key of a matrix's provenance that tells of another way than through transformers."""
NOTE = f"transformers lacks the model's code: llama.cpp runs its {FLOATS} file in its place, on the CPU"
_SETTINGS_OF_FLOATS = Quantize(types=(FLOATS,), allow_requantize=True)
_INSTEAD = "do without a matrix and measurements: --set imatrix.skip=true --set evaluate.skip=true"


def runs_in_llamacpp(component: Component) -> bool:
    """Whether llama.cpp runs the model, and only that can."""
    return component.conversion.lacks_code and not component.embeds and is_installed()


def check_ways(offload: str, way: str) -> None:
    """Raises ``UserError`` where a model that llama.cpp runs is to be loaded or streamed in one of transformers'
    ways."""
    asked = {"imatrix.offload": (offload, ("auto", "none")), "evaluate.way": (way, ("auto", "stored"))}
    for field, (value, possible) in asked.items():
        if value not in possible:
            raise UserError(
                f"{field}: {value} is not for this model",
                why=f"{NOTE}, and reads that from the disk as it needs it",
                hint=f"leave {field} out",
            )


def check_predicts_next(component: Component) -> None:
    """Raises ``NotSupportedYet`` for a model that llama.cpp runs, of which it gives no probabilities of next tokens."""
    if component.fills_in:
        raise NotSupportedYet(
            f"evaluating {component.conversion.architecture} models",
            why="they see the whole text and fill in masked tokens: no next one is predicted",
            hint="add --set evaluate.skip=true",
        )


def how_to_run(component: Component) -> str:
    """What the user can do about a model that cannot be run, before what else there is; empty where nothing."""
    missing = component.conversion.lacks_code and not component.embeds and not is_installed()
    return f"llama.cpp runs it, {HOW_TO_ADD}; or " if missing else ""


def floats_of(component: Component, backend: GGUF, progress: Progress) -> QuantizedFile:
    """The file that llama.cpp runs."""
    (file,) = backend.check(component, _SETTINGS_OF_FLOATS, progress).tasks(None)
    return file


@dataclass(frozen=True, eq=False)
class RunInLlamaCpp:
    """The component of ``file``, run there on chunks of ``n_ctx`` tokens."""

    file: QuantizedFile
    n_ctx: int
    device: Device = "cpu"

    @contextmanager
    def open(self, context: Context) -> Iterator[Runner]:
        from hubquant.llamacpp.runner import LlamaCppRunner

        with LlamaCppRunner(context.read(self.file), self.n_ctx, instead=_INSTEAD) as runner:
            yield runner

    def cost(self, chunks: Chunks, disk_bytes: int) -> Cost:
        return _cost(self.file.component, chunks, LOGIT_COPIES * chunks.chunk_size, disk_bytes)


def _cost(component: Component, chunks: Chunks, n_logits: int, disk_bytes: int) -> Cost:
    """``n_logits`` are those of tokens that are in memory at a time."""
    weights = HALF_BYTES * component.n_parameters
    return Cost(
        ram_bytes=LIBRARIES_BYTES + weights + FP32_BYTES * n_logits * component.n_vocab,
        disk_bytes=disk_bytes,
        work=float(component.n_parameters) * chunks.n_tokens,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class ImatrixInLlamaCpp(CollectedImatrix):
    """Sums over what llama.cpp multiplies with the weights of ``file``, a chunk at a time."""

    file: QuantizedFile

    @property
    def detail(self) -> str:
        return f"{super().detail} (in llama.cpp)"

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {**super().inputs, "file": self.file}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {**super().made_from, "llamacpp": installed_version()}

    @property
    def cost(self) -> Cost:
        return _cost(self.component, self.chunks, 2 * self.chunks.chunk_size, super().cost.disk_bytes)

    @property
    def rate(self) -> str:
        return f"{self.kind} in llama.cpp"

    @property
    def shares(self) -> None:
        """Nothing: llama.cpp loads the file in a process of its own."""
        return

    def _run(self, keeping: SnapshotPlace, wanted: CollectionRequest, context: Context) -> Collection:
        from hubquant.llamacpp.collecting import collect_in_llamacpp

        facts = {**wanted.provenance, COLLECTED_WITH: f"xllamacpp {installed_version()}, {FLOATS}"}
        with context.progress.bar("imatrix", len(self.chunks), "chunks") as advance:
            return collect_in_llamacpp(
                context.read(self.file),
                self.chunks,
                collected_names(self.component.conversion.taps, self.settings.process_output),
                replace(wanted, provenance=facts),
                keeping=keeping,
                instead=_INSTEAD,
                advance=advance,
                watch=self._watch(context.progress),
            )

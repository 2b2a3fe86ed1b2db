"""How far a file is from its source model, and whether llama.cpp can use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.task import QuantizedFile
from hubquant.devices import Device
from hubquant.engine.limits import cores
from hubquant.engine.machine import memory_bytes
from hubquant.engine.task import Context, Cost, Task
from hubquant.gguf_file import GGUFFile
from hubquant.llamacpp.process import installed_version
from hubquant.pipeline.costs import LIBRARIES_BYTES, running_cost
from hubquant.pipeline.held import LoadedFile, other_device, rate_on
from hubquant.pipeline.offload import output_bytes, stream_of, streaming_bytes
from hubquant.pipeline.results import REPORT, SNAPSHOT, FileMeasurement, Measurement
from hubquant.sources.component import Component
from hubquant.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from hubquant.evaluate import Baseline, Divergence, Precision
    from hubquant.evaluate.runner import Runner
    from hubquant.llamacpp.runtime import NextTokens, RuntimeCheck

BYTES_OF_A_THREAD = 100_000_000
"""Of a file in llama.cpp: a small one is checked in a moment by one."""
SLOWEST = 10e6  # bytes of a file that llama.cpp needs a second for, in all of its answers


class FileDivergence(FileMeasurement["Divergence"]):
    """How far a file is from its source model."""

    kind = "evaluation"
    version = 2

    @property
    def type(self) -> type[Divergence]:
        from hubquant.evaluate import Divergence

        return Divergence


@dataclass(frozen=True, eq=False)
class Evaluation(FileDivergence):
    """KL divergence and perplexity of ``file`` on the text of ``baseline``; ``running`` it there has that cost.

    ``texts`` name the text of each chunk where several have a name; ``until`` a precision is reached not all of them
    are measured. Beside the result stands the report of all tokens.
    """

    file: Task[Path]
    baseline: Task[Path]
    name: str
    running: Cost
    device: Device = "auto"
    texts: tuple[str, ...] = ()
    until: Precision | None = None

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"file": self.file, "baseline": self.baseline}

    @property
    def made_from(self) -> Mapping[str, Any]:
        texts = {"texts": self.texts} if self.texts else {}
        until = {"until": asdict(self.until)} if self.until else {}
        return {"hubquant": __version__, **texts, **until, **other_device(self.device)}

    @property
    def cost(self) -> Cost:
        return self.running

    @property
    def rate(self) -> str:
        return rate_on(self.kind, self.device)

    @property
    def shares(self) -> LoadedFile | None:
        return LoadedFile(self.file, self.device)

    def measure(self, folder: Path, context: Context) -> Divergence:
        from hubquant.evaluate import Baseline, compare

        snapshot = folder / SNAPSHOT
        with (
            Baseline.open(context.read(self.baseline)) as baseline,
            self.running_file(baseline, context) as runner,
            context.progress.bar(self.detail, len(self.compared(baseline)), "chunks") as advance,
        ):
            divergence = compare(
                runner,
                self.text_of(baseline, context),
                chunks=self.compared(baseline),
                texts=self.texts,
                until=self.until,
                snapshot=snapshot,
                report=folder / REPORT,
                advance=advance,
            )
        snapshot.unlink(missing_ok=True)
        return divergence

    def text_of(self, baseline: Baseline, context: Context) -> Baseline:
        """``baseline`` with the tokens that the file is run on."""
        from hubquant.evaluate.fitting import with_first_token

        return with_first_token(baseline, GGUFFile.open(context.read(self.file)).metadata)

    def compared(self, baseline: Baseline) -> range:
        """Which chunks of ``baseline`` are."""
        return range(baseline.n_chunks)

    @contextmanager
    def running_file(self, baseline: Baseline, context: Context) -> Iterator[Runner]:  # noqa: ARG002
        """What gives the logits of the file on the tokens of ``baseline``."""
        from hubquant.models.language_model import LanguageModel

        yield LanguageModel(context.held)


@dataclass(frozen=True, eq=False)
class UsedByLlamaCpp(Measurement["RuntimeCheck"]):
    """``differing`` and ``left_out`` are what the tokenizer is known to do otherwise in llama.cpp. A file that is
    ``streamed`` is one block in memory when it is restored, and all of it in llama.cpp."""

    kind = "runtime"

    file: QuantizedFile
    differing: tuple[str, ...]
    left_out: bool
    device: Device = "auto"
    streamed: bool = False

    @property
    def step(self) -> str:
        return "evaluate"

    @property
    def detail(self) -> str:
        return self.file.plan.label

    @property
    def label(self) -> str:
        return f"{self.detail} check in llama.cpp"

    @property
    def type(self) -> type[RuntimeCheck]:
        from hubquant.llamacpp.runtime import RuntimeCheck

        return RuntimeCheck

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"file": self.file}

    @property
    def made_from(self) -> Mapping[str, Any]:
        way = {"way": "streamed"} if self.streamed else {}
        return {"llamacpp": installed_version(), "hubquant": __version__, **other_device(self.device), **way}

    @property
    def cost(self) -> Cost:
        if self.streamed:
            component = self.file.component
            return Cost(ram_bytes=LIBRARIES_BYTES + max(streaming_bytes(component, 0), output_bytes(component)))
        return running_cost(self.file.component.n_parameters, 0, device=self.device)

    @property
    def shares(self) -> LoadedFile | None:
        return None if self.file.plan.fork or self.streamed else LoadedFile(self.file, self.device)

    def measure(self, folder: Path, context: Context) -> RuntimeCheck:
        from hubquant.llamacpp.runtime import TIMEOUT, RuntimeCheck, predicted_by, runtime_check
        from hubquant.models.language_model import LanguageModel

        if fork := self.file.plan.fork:
            return RuntimeCheck(skipped=f"only {fork}, a fork of llama.cpp, loads this file")
        path, n_bytes = context.read(self.file), self.file.plan.size
        if self.streamed:
            if n_bytes > memory_bytes():
                return RuntimeCheck(skipped="the file is larger than the memory of the machine that it was made on")
            next_tokens: NextTokens = _Streamed(path, self.file.component, folder, self.device)
        else:
            next_tokens = predicted_by(LanguageModel(context.held))
        return runtime_check(
            path,
            self.file.component.source.tokenizer(),
            next_tokens,
            without=self.differing,
            add_special=not self.left_out,
            threads=min(cores(), 1 + n_bytes // BYTES_OF_A_THREAD),
            timeout=TIMEOUT + n_bytes / SLOWEST,
        )


@dataclass(frozen=True)
class _Streamed:
    """What a file that is restored block by block predicts."""

    path: Path
    component: Component
    folder: Path
    device: Device

    def __call__(self, prompts: Sequence[Tensor]) -> list[int]:
        from hubquant.convert.blocks import open_file
        from hubquant.evaluate.streamed import next_tokens

        weights, n_tokens = open_file(GGUFFile.open(self.path), self.device), sum(map(len, prompts))
        return next_tokens(stream_of(weights, self.component, n_tokens, self.folder, self.device), prompts)

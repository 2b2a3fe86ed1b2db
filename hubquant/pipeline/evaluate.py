"""How far a file is from its source model, and whether llama.cpp can use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.task import QuantizedFile
from hubquant.devices import Device
from hubquant.engine.task import Context, Cost, Task
from hubquant.llamacpp.process import installed_version
from hubquant.pipeline.costs import running_cost
from hubquant.pipeline.held import LoadedFile, other_device, rate_on
from hubquant.pipeline.results import REPORT, SNAPSHOT, Measurement
from hubquant.version import __version__

if TYPE_CHECKING:
    from hubquant.evaluate import Divergence
    from hubquant.llamacpp.runtime import RuntimeCheck


@dataclass(frozen=True, eq=False)
class Evaluation(Measurement["Divergence"]):
    """KL divergence and perplexity of ``file`` on the text of ``baseline``; ``running`` it there has that cost.

    ``texts`` name the text of each chunk where several have a name. Beside the result stands the report of all tokens.
    """

    kind = "evaluation"
    version = 2

    file: Task[Path]
    baseline: Task[Path]
    name: str
    running: Cost
    device: Device = "auto"
    texts: tuple[str, ...] = ()

    @property
    def step(self) -> str:
        return "evaluate"

    @property
    def detail(self) -> str:
        return self.name

    @property
    def type(self) -> type[Divergence]:
        from hubquant.evaluate import Divergence

        return Divergence

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"file": self.file, "baseline": self.baseline}

    @property
    def made_from(self) -> Mapping[str, Any]:
        texts = {"texts": self.texts} if self.texts else {}
        return {"hubquant": __version__, **texts, **other_device(self.device)}

    @property
    def cost(self) -> Cost:
        return self.running

    @property
    def rate(self) -> str:
        return rate_on(self.kind, self.device)

    @property
    def shares(self) -> LoadedFile:
        return LoadedFile(self.file, self.device)

    def measure(self, folder: Path, context: Context) -> Divergence:
        from hubquant.evaluate import Baseline, compare
        from hubquant.models.language_model import LanguageModel

        snapshot = folder / SNAPSHOT
        with (
            Baseline.open(context.read(self.baseline)) as baseline,
            context.progress.bar(self.name, baseline.n_chunks, "chunks") as advance,
        ):
            divergence = compare(
                LanguageModel(context.held),
                baseline,
                texts=self.texts,
                snapshot=snapshot,
                report=folder / REPORT,
                advance=advance,
            )
        snapshot.unlink(missing_ok=True)
        return divergence


@dataclass(frozen=True, eq=False)
class UsedByLlamaCpp(Measurement["RuntimeCheck"]):
    """``differing`` and ``left_out`` are what the tokenizer is known to do otherwise in llama.cpp."""

    kind = "runtime"

    file: QuantizedFile
    differing: tuple[str, ...]
    left_out: bool
    device: Device = "auto"

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
        return {"llamacpp": installed_version(), "hubquant": __version__, **other_device(self.device)}

    @property
    def cost(self) -> Cost:
        return running_cost(self.file.component.n_parameters, 0, device=self.device)

    @property
    def shares(self) -> LoadedFile | None:
        return None if self.file.plan.fork else LoadedFile(self.file, self.device)

    def measure(self, folder: Path, context: Context) -> RuntimeCheck:  # noqa: ARG002
        from hubquant.llamacpp.runtime import RuntimeCheck, runtime_check
        from hubquant.models.language_model import LanguageModel

        if fork := self.file.plan.fork:
            return RuntimeCheck(skipped=f"only {fork}, a fork of llama.cpp, loads this file")
        return runtime_check(
            context.read(self.file),
            self.file.component.source.tokenizer(),
            LanguageModel(context.held),
            without=self.differing,
            add_special=not self.left_out,
        )

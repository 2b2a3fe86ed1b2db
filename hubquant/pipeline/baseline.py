"""The source model's predictions on held-out text, which files are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.engine.task import Context, Cost, Task
from hubquant.evaluate.scoring import n_scored
from hubquant.pipeline.costs import running_cost
from hubquant.pipeline.held import LoadedModel
from hubquant.pipeline.results import Measurement, describe
from hubquant.sources.pulled import Pulled
from hubquant.version import __version__

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.evaluate import Perplexity

BASELINE = "baseline.h5"


@dataclass(frozen=True, eq=False)
class BaselineTask(Task[Path]):
    """Distributions of the next token over ``chunks``; ``n_vocab`` logits and ``n_parameters`` weights."""

    kind = "baseline"

    pulled: Pulled
    chunks: Chunks
    model: LoadedModel
    n_parameters: int
    n_vocab: int

    @property
    def detail(self) -> str:
        return describe(self.chunks)

    @property
    def label(self) -> str:
        return "baseline"

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.pulled}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"tokens": self.chunks.fingerprint, "name": self.pulled.source.full_name, "hubquant": __version__}

    @property
    def cost(self) -> Cost:
        chunk_size = self.chunks.chunk_size
        stored = 2 * self.n_vocab * n_scored(chunk_size) * len(self.chunks)
        return running_cost(self.n_parameters, self.chunks.n_tokens, chunk_size * self.n_vocab, stored)

    @property
    def shares(self) -> LoadedModel:
        return self.model

    def make(self, folder: Path, context: Context) -> None:
        from hubquant.evaluate import write_baseline
        from hubquant.models.language_model import LanguageModel

        source = self.pulled.source
        with context.progress.bar("baseline", len(self.chunks), "chunks") as advance:
            write_baseline(
                LanguageModel(context.held),
                self.chunks,
                folder / BASELINE,
                name=source.full_name,
                revision=source.exact_revision,
                advance=advance,
            ).close()

    def read(self, folder: Path) -> Path:
        return folder / BASELINE


@dataclass(frozen=True, eq=False)
class PerplexityTask(Measurement["Perplexity"]):
    """Of the source model itself."""

    kind = "perplexity"

    pulled: Pulled
    chunks: Chunks
    model: LoadedModel
    n_parameters: int
    n_vocab: int

    @property
    def detail(self) -> str:
        return describe(self.chunks)

    @property
    def label(self) -> str:
        return "perplexity"

    @property
    def type(self) -> type[Perplexity]:
        from hubquant.evaluate import Perplexity

        return Perplexity

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.pulled}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"tokens": self.chunks.fingerprint, "hubquant": __version__}

    @property
    def cost(self) -> Cost:
        return running_cost(self.n_parameters, self.chunks.n_tokens, self.chunks.chunk_size * self.n_vocab)

    @property
    def shares(self) -> LoadedModel:
        return self.model

    def measure(self, folder: Path, context: Context) -> Perplexity:  # noqa: ARG002
        from hubquant.evaluate import perplexity
        from hubquant.models.language_model import LanguageModel

        with context.progress.bar("perplexity", len(self.chunks), "chunks") as advance:
            return perplexity(LanguageModel(context.held), self.chunks, advance=advance)

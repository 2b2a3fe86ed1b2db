"""The source model's predictions on held-out text, which files are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.engine.task import Context, Cost, Task
from hubquant.evaluate.forms import Form, stored_bytes, usual_form
from hubquant.evaluate.scoring import n_scored
from hubquant.pipeline.costs import evaluating_cost
from hubquant.pipeline.held import LoadedModel, other_device, rate_on
from hubquant.pipeline.results import SNAPSHOT, Measurement, describe
from hubquant.sources.component import Component
from hubquant.version import __version__

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.evaluate import Perplexity

BASELINE = "baseline.h5"


@dataclass(frozen=True, eq=False)
class BaselineTask(Task[Path]):
    """Distributions of the next token over ``chunks``, by ``model``, which is the component's. ``form`` is how they
    are stored if not as usual; ``first_chunk`` is the number of the first in the text."""

    kind = "baseline"
    version = 2

    component: Component
    chunks: Chunks
    model: LoadedModel
    form: Form | None = None
    first_chunk: int = 1

    @property
    def detail(self) -> str:
        return describe(self.chunks)

    @property
    def stored_form(self) -> Form:
        return self.form or usual_form(self.component.n_vocab)

    @property
    def label(self) -> str:
        return "baseline"

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.component.pulled}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {
            "tokens": self.chunks.fingerprint,
            "name": self.component.source.full_name,
            "hubquant": __version__,
            **other_device(self.model.device),
            "form": self.stored_form,
            **({} if self.first_chunk == 1 else {"first_chunk": self.first_chunk}),
        }

    @property
    def cost(self) -> Cost:
        n_tokens = len(self.chunks) * n_scored(self.chunks.chunk_size)
        stored = stored_bytes(self.stored_form, n_tokens, self.component.n_vocab)
        weight = self.component.source.bytes_of_weight
        return evaluating_cost(self.component, self.chunks, stored, self.model.device, weight)

    @property
    def rate(self) -> str:
        return rate_on(self.kind, self.model.device)

    @property
    def shares(self) -> LoadedModel:
        return self.model

    def make(self, folder: Path, context: Context) -> None:
        from hubquant.evaluate import write_baseline
        from hubquant.evaluate.fitting import texts_fingerprint
        from hubquant.models.language_model import LanguageModel

        source = self.component.source
        with context.progress.bar("baseline", len(self.chunks), "chunks") as advance:
            write_baseline(
                LanguageModel(context.held),
                self.chunks,
                folder / BASELINE,
                name=source.full_name,
                revision=source.exact_revision,
                form=self.stored_form,
                tokens_fingerprint=texts_fingerprint(self.component.conversion.metadata, self.chunks.ids),
                first_chunk=self.first_chunk,
                advance=advance,
            ).close()

    def read(self, folder: Path) -> Path:
        return folder / BASELINE


@dataclass(frozen=True, eq=False)
class PerplexityTask(Measurement["Perplexity"]):
    """Of the source model itself; with ``stride``, of the last tokens of overlapping windows."""

    kind = "perplexity"

    component: Component
    chunks: Chunks
    model: LoadedModel
    stride: int | None = None

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
        return {"weights": self.component.pulled}

    @property
    def made_from(self) -> Mapping[str, Any]:
        stride = {} if self.stride is None else {"stride": self.stride}
        facts = {"tokens": self.chunks.fingerprint, "hubquant": __version__, **stride}
        return {**facts, **other_device(self.model.device)}

    @property
    def cost(self) -> Cost:
        weight = self.component.source.bytes_of_weight
        return evaluating_cost(self.component, self.chunks, device=self.model.device, bytes_of_weight=weight)

    @property
    def rate(self) -> str:
        return rate_on(self.kind, self.model.device)

    @property
    def shares(self) -> LoadedModel:
        return self.model

    def measure(self, folder: Path, context: Context) -> Perplexity:
        from hubquant.evaluate import perplexity
        from hubquant.models.language_model import LanguageModel

        snapshot, key = folder / SNAPSHOT, bytes.fromhex(self.key)
        with context.progress.bar("perplexity", len(self.chunks), "chunks") as advance:
            model = LanguageModel(context.held)
            found = perplexity(model, self.chunks, stride=self.stride, snapshot=(snapshot, key), advance=advance)
        snapshot.unlink(missing_ok=True)
        return found

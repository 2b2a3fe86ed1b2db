"""The source model's predictions on held-out text, which files are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.engine.task import Context, Cost, Task
from hubquant.evaluate.forms import Form, stored_bytes, usual_form
from hubquant.evaluate.scoring import n_scored
from hubquant.llamacpp.process import installed_version
from hubquant.pipeline.held import LoadedModel, other_device, rate_on
from hubquant.pipeline.results import SNAPSHOT, Measurement, describe
from hubquant.pipeline.streamed import LastBlock, predicting_cost, predicting_inputs, predictions
from hubquant.pipeline.without_code import RunInLlamaCpp
from hubquant.sources.component import Component
from hubquant.version import __version__

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.evaluate import Perplexity

BASELINE = "baseline.h5"


@dataclass(frozen=True, eq=False)
class BaselineTask(Task[Path]):
    """Distributions of the next token over ``chunks``, by ``model``, which is the component's, as a whole, in
    llama.cpp, or streamed over these chunks. ``form`` is how they are stored if not as usual; ``first_chunk`` is the
    number of the first in the text."""

    kind = "baseline"
    version = 2

    component: Component
    chunks: Chunks
    model: LoadedModel | LastBlock | RunInLlamaCpp
    form: Form | None = None
    first_chunk: int = 1

    @property
    def detail(self) -> str:
        return describe(self.chunks) + (" (in llama.cpp)" if isinstance(self.model, RunInLlamaCpp) else "")

    @property
    def stored_form(self) -> Form:
        return self.form or usual_form(self.component.n_vocab)

    @property
    def label(self) -> str:
        return "baseline"

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return predicting_inputs(self.model, self.component)

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {
            "tokens": self.chunks.fingerprint,
            "name": self.component.source.full_name,
            "hubquant": __version__,
            **self._engine,
            "form": self.stored_form,
            **({} if self.first_chunk == 1 else {"first_chunk": self.first_chunk}),
        }

    @property
    def _engine(self) -> Mapping[str, Any]:
        if isinstance(self.model, RunInLlamaCpp):
            return {"llamacpp": installed_version()}
        return other_device(self.model.device)

    @property
    def cost(self) -> Cost:
        n_tokens = len(self.chunks) * n_scored(self.chunks.chunk_size)
        stored = stored_bytes(self.stored_form, n_tokens, self.component.n_vocab)
        return predicting_cost(self.model, self.component, self.chunks, stored)

    @property
    def rate(self) -> str:
        if isinstance(self.model, RunInLlamaCpp):
            return f"{self.kind} in llama.cpp"
        streamed = isinstance(self.model, LastBlock)
        return rate_on(f"{self.kind} after streaming" if streamed else self.kind, self.model.device)

    @property
    def shares(self) -> LoadedModel | None:
        return self.model if isinstance(self.model, LoadedModel) else None

    def make(self, folder: Path, context: Context) -> None:
        from hubquant.evaluate import write_baseline
        from hubquant.evaluate.fitting import texts_fingerprint

        source = self.component.source
        with (
            predictions(self.model, folder, context) as runner,
            context.progress.bar("baseline", len(self.chunks), "chunks") as advance,
        ):
            write_baseline(
                runner,
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
    """Of the source model itself, as a whole or streamed over ``chunks``; with ``stride``, of the last tokens of
    overlapping windows."""

    kind = "perplexity"

    component: Component
    chunks: Chunks
    model: LoadedModel | LastBlock
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
        return predicting_inputs(self.model, self.component)

    @property
    def made_from(self) -> Mapping[str, Any]:
        stride = {} if self.stride is None else {"stride": self.stride}
        facts = {"tokens": self.chunks.fingerprint, "hubquant": __version__, **stride}
        return {**facts, **other_device(self.model.device)}

    @property
    def cost(self) -> Cost:
        return predicting_cost(self.model, self.component, self.chunks)

    @property
    def rate(self) -> str:
        streamed = isinstance(self.model, LastBlock)
        return rate_on(f"{self.kind} after streaming" if streamed else self.kind, self.model.device)

    @property
    def shares(self) -> LoadedModel | None:
        return self.model if isinstance(self.model, LoadedModel) else None

    def measure(self, folder: Path, context: Context) -> Perplexity:
        from hubquant.evaluate import perplexity

        snapshot, key = folder / SNAPSHOT, bytes.fromhex(self.key)
        with (
            predictions(self.model, folder, context) as runner,
            context.progress.bar("perplexity", len(self.chunks), "chunks") as advance,
        ):
            found = perplexity(runner, self.chunks, stride=self.stride, snapshot=(snapshot, key), advance=advance)
        snapshot.unlink(missing_ok=True)
        return found

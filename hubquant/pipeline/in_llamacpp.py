"""How far a file is from its source model when llama.cpp runs it, whose activations are quantized too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hubquant.engine.task import Context
from hubquant.errors import UserError
from hubquant.llamacpp.process import HOW_TO_ADD, NOT_INSTALLED, installed_version, is_installed
from hubquant.pipeline.evaluate import Evaluation
from hubquant.pipeline.results import REPORT, SNAPSHOT

if TYPE_CHECKING:
    from hubquant.evaluate import Baseline, Divergence
    from hubquant.evaluate.runner import Runner

IN_A_RUN = 16
"""Chunks that a run measures in llama.cpp: what it adds to a divergence is seen on every second, third, … as well."""


def check_installed() -> None:
    """Raises ``UserError`` where there is no llama.cpp."""
    if not is_installed():
        raise UserError("files cannot be measured in llama.cpp", why=NOT_INSTALLED, hint=HOW_TO_ADD)


@dataclass(frozen=True, eq=False)
class EvaluationInLlamaCpp(Evaluation):
    """As its own programs run the file on the CPU, whatever the ``device`` of the source model was, on ``most_chunks``
    at most."""

    kind = "llamacpp-evaluation"

    most_chunks: int | None = None

    @classmethod
    def beside(cls, evaluation: Evaluation, n_chunks: int, most_chunks: int | None = None) -> Self:
        """The same measurement in llama.cpp, where there are ``n_chunks``, until the same precision; or on
        ``most_chunks``, and all of them."""
        cost = evaluation.running
        work = cost.work * len(_spread(n_chunks, most_chunks)) / max(1, n_chunks)
        running = replace(cost, device_bytes=0, work=work)
        until = evaluation.until if most_chunks is None else None
        return cls(**{**_fields(evaluation), "running": running, "until": until}, most_chunks=most_chunks)

    @property
    def detail(self) -> str:
        return f"{self.name} in llama.cpp"

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {**super().made_from, "llamacpp": installed_version(), "most_chunks": self.most_chunks}

    @property
    def rate(self) -> str:
        return self.kind

    @property
    def shares(self) -> None:
        """Nothing: llama.cpp loads the file in a process of its own."""
        return

    def compared(self, baseline: Baseline) -> range:
        return _spread(baseline.n_chunks, self.most_chunks)

    @contextmanager
    def running_file(self, baseline: Baseline, context: Context) -> Iterator[Runner]:
        from hubquant.llamacpp.runner import LlamaCppRunner

        with LlamaCppRunner(context.read(self.file), n_ctx=baseline.ids.shape[1]) as runner:
            yield runner


@dataclass(frozen=True, eq=False)
class EngineDifference(Evaluation):
    """How far llama.cpp's predictions with a file are from those that transformers makes with the file's weights: the
    noise floor of a comparison between the two."""

    kind = "engine-difference"

    @classmethod
    def of(cls, evaluation: Evaluation) -> Self:
        """Of its file, on its text."""
        cost = evaluation.running
        running = replace(cost, ram_bytes=2 * cost.ram_bytes, work=2 * cost.work)
        return cls(**{**_fields(evaluation), "running": running})

    @property
    def detail(self) -> str:
        return f"{self.name} between the engines"

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {**super().made_from, "llamacpp": installed_version()}

    def measure(self, folder: Path, context: Context) -> Divergence:
        from hubquant.evaluate import Baseline
        from hubquant.evaluate.pairs import compare_runners
        from hubquant.llamacpp.runner import LlamaCppRunner
        from hubquant.models.language_model import LanguageModel

        snapshot = folder / SNAPSHOT
        with Baseline.open(context.read(self.baseline)) as baseline:
            ids, n_vocab = baseline.ids, baseline.n_vocab
        with (
            LlamaCppRunner(context.read(self.file), n_ctx=ids.shape[1]) as runner,
            context.progress.bar(self.detail, len(ids), "chunks") as advance,
        ):
            found = compare_runners(
                runner,
                LanguageModel(context.held),
                ids,
                n_vocab,
                snapshot=(snapshot, bytes.fromhex(self.key)),
                until=self.until,
                report=folder / REPORT,
                advance=advance,
            )
        snapshot.unlink(missing_ok=True)
        return found


def _fields(evaluation: Evaluation) -> dict[str, Any]:
    return {field.name: getattr(evaluation, field.name) for field in fields(Evaluation)}


def _spread(n_chunks: int, most: int | None) -> range:
    return range(0, n_chunks, max(1, -(-n_chunks // (most or n_chunks or 1))))

"""How many questions of a test a model answers right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.engine.task import Context, Cost, Task, fingerprint
from hubquant.pipeline.costs import running_cost
from hubquant.pipeline.held import LoadedModel, other_device, rate_on
from hubquant.pipeline.results import SNAPSHOT, Measurement
from hubquant.sources.component import Component
from hubquant.units import counted
from hubquant.version import __version__

if TYPE_CHECKING:
    from hubquant.evaluate import Accuracy
    from hubquant.evaluate.choices import Question


@dataclass(frozen=True)
class Questions:
    """Of ``test``, from the file or data set ``name``."""

    test: str
    name: str
    items: tuple[Question, ...]

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint([[q.sequences, q.begins, q.ends, sorted(q.right), q.borrows] for q in self.items])

    @property
    def n_tokens(self) -> int:
        return sum(len(ids) for question in self.items for ids in question.sequences)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(ids) for question in self.items for ids in question.sequences)


@dataclass(frozen=True, eq=False)
class ScoreTask(Measurement["Accuracy"]):
    """Of the model of ``component``, a checkpoint's or a file's."""

    kind = "score"

    component: Component
    questions: Questions
    model: LoadedModel

    @property
    def step(self) -> str:
        return "evaluate"

    @property
    def detail(self) -> str:
        return f"{counted(len(self.questions.items), 'task')} of {self.questions.test} from {self.questions.name}"

    @property
    def label(self) -> str:
        return f"{self.questions.test} score"

    @property
    def type(self) -> type[Accuracy]:
        from hubquant.evaluate import Accuracy

        return Accuracy

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.component.pulled}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"questions": self.questions.fingerprint, "hubquant": __version__, **other_device(self.model.device)}

    @property
    def cost(self) -> Cost:
        n_tokens, logits = self.questions.n_tokens, self.questions.longest * self.component.n_vocab
        weight = self.component.source.bytes_of_weight
        return running_cost(
            self.component.n_parameters, n_tokens, logits, device=self.model.device, bytes_of_weight=weight
        )

    @property
    def rate(self) -> str:
        return rate_on(self.kind, self.model.device)

    @property
    def shares(self) -> LoadedModel:
        return self.model

    def measure(self, folder: Path, context: Context) -> Accuracy:
        from hubquant.evaluate import accuracy
        from hubquant.models.language_model import LanguageModel

        items, snapshot = self.questions.items, folder / SNAPSHOT
        with context.progress.bar(self.questions.test, len(items), "tasks") as advance:
            key = bytes.fromhex(self.key)
            found = accuracy(LanguageModel(context.held), items, snapshot=(snapshot, key), advance=advance)
        snapshot.unlink(missing_ok=True)
        return found

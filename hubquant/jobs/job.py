"""What a job is, and how much of the machine its owner may have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hubquant.recipe.schema import ModelReference, Recipe

LOCAL = "local"
"""The owner of jobs that are the machine's own user's: they reach its files, and its login on the Hub."""

State = Literal["queued", "waiting", "running", "done", "failed", "cancelled"]
FINISHED: tuple[State, ...] = ("done", "failed", "cancelled")
GiB = 1 << 30


class OrderedModel(BaseModel):
    """``folder`` is its output folder's name; ``to`` the repository to publish to, None where the files stay there."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: ModelReference
    name: str
    folder: str
    to: str | None = None


class Order(BaseModel):
    """What a job is to do: ``recipe`` for each of ``models``. ``uploads`` are names of files that came along, by which
    the recipe may name them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    recipe: Recipe
    models: tuple[OrderedModel, ...]
    uploads: tuple[str, ...] = ()

    @property
    def publishes(self) -> bool:
        return any(model.to is not None for model in self.models)

    @property
    def title(self) -> str:
        more = f" and {len(self.models) - 1} more" if len(self.models) > 1 else ""
        return self.models[0].name + more


@dataclass(frozen=True)
class Job:
    """``waiting`` is for a token of its owner. Times in seconds since 1970; ``position`` counts the jobs of everybody
    that are to begin, from 1; ``error`` says what went wrong and what to do, and ``lasting`` that trying again changes
    nothing; ``cancelling`` is a running job that has been told to end; ``has_files`` is false once they are cleaned
    away."""

    id: str
    owner: str
    title: str
    order: Order
    state: State
    created: float
    started: float | None = None
    finished: float | None = None
    position: int | None = None
    error: str | None = None
    lasting: bool = False
    cancelling: bool = False
    has_files: bool = True


@dataclass(frozen=True)
class Limits:
    """Of each owner but :data:`LOCAL`: ``jobs`` that are not finished, ``running`` at once, ``disk_bytes`` of all its
    jobs' files, ``upload_bytes`` of one job. Of all: files of a finished job stay for ``days``, for ever with None; of
    the store, what was not used for so long goes as well, and what is above ``store_bytes``, where that is given."""

    jobs: int = 5
    running: int = 1
    disk_bytes: int = 50 * GiB
    upload_bytes: int = GiB
    days: float | None = 7
    store_bytes: int | None = None


@dataclass(frozen=True)
class JobFolder:
    """Where the files of a job lie."""

    root: Path

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def outputs(self) -> Path:
        return self.root / "out"

    @property
    def records(self) -> Path:
        """What was made of each model, as ``hubquant batch`` remembers it."""
        return self.root / "batch.json"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the job for as long as it lives."""
        return self.root / "lock"

    @property
    def log(self) -> Path:
        """What libraries print, and tracebacks: for who runs the machine."""
        return self.root / "log.txt"

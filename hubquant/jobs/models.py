"""Models that are to be made one after the other, and what is remembered of those that were."""

from __future__ import annotations

import shlex
import string
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hubquant.disk import check_ends, locked, user_path, write_at_once
from hubquant.engine.store import home
from hubquant.engine.task import fingerprint
from hubquant.errors import OutputError, UserError
from hubquant.recipe.names import HUB_ID
from hubquant.recipe.references import model_reference
from hubquant.recipe.schema import ModelReference

FOLDER = "{model}-GGUF"
DEMO = {"bundled": "demo"}
"""In the place of the models of a recipe that is for several."""
_FIELDS = ("model", "org")
_EXAMPLE = "Qwen/Qwen3-0.6B@main me/Qwen3-0.6B-GGUF"


@dataclass(frozen=True)
class QueuedModel:
    """``to`` is the repository to publish to, None where the files stay in ``out``."""

    model: ModelReference
    name: str
    out: Path
    to: str | None


@dataclass(frozen=True)
class NamedModel:
    """A model as it was named, and the repository that was named with it."""

    model: str
    to: str | None = None


class BatchRecord(BaseModel):
    """Of one output folder. ``made_from`` is all that the result depends on but for ``revision``, the state of the
    model; ``files`` has sizes in bytes; ``error`` is None where all is well, and ``lasting`` says that trying again
    changes nothing, ``sign_in`` that a token which the Hub accepts may; ``left_alone`` was never to be made.
    ``finished`` in seconds since 1970."""

    model_config = ConfigDict(frozen=True)
    model: str
    hubquant: str
    made_from: str | None = None
    revision: str | None = None
    to: str | None = None
    url: str | None = None
    files: dict[str, int] = {}
    error: str | None = None
    lasting: bool = False
    sign_in: bool = False
    left_alone: bool = False
    seconds: float = 0
    finished: float = 0


class _BatchFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    version: Literal[1] = 1
    records: dict[str, BatchRecord] = {}


class BatchState:
    """The records of a queue in a file, which is whole however the process ends."""

    def __init__(self, path: Path) -> None:
        """Raises ``OutputError`` for a file of anything else."""
        self.path = path
        try:
            self._records = dict(_BatchFile.model_validate_json(path.read_bytes()).records)
        except FileNotFoundError:
            self._records = {}
        except (OSError, ValidationError):
            raise OutputError(
                f"{path} is not the state of a batch", hint="name another file with --state, or move this one away"
            ) from None

    def get(self, entry: QueuedModel) -> BatchRecord | None:
        return self.at(entry.out)

    def at(self, out: Path) -> BatchRecord | None:
        return self._records.get(str(out.absolute()))

    def put(self, entry: QueuedModel, record: BatchRecord) -> None:
        self._records[str(entry.out.absolute())] = record
        write_at_once(self.path, _BatchFile(records=self._records).model_dump_json(indent=1).encode())


@contextmanager
def opened(path: Path) -> Iterator[BatchState]:
    """Only one process works on a queue."""
    in_use = OutputError(f"{path} is in use", why="another hubquant process works on this batch", hint="wait for it")
    with locked(path.with_name(f"{path.name}.lock"), in_use):
        yield BatchState(path)


def default_state(out: str) -> Path:
    """In hubquant's home, one for each place of outputs."""
    return home() / "batches" / f"{fingerprint(str(user_path(out).absolute()))[:24]}.json"


def read_lines(path: Path) -> list[NamedModel]:
    """One model a line, and after it perhaps the repository for its files; # begins a comment, and names with spaces
    stand between quotes. Raises ``UserError``."""
    try:
        check_ends(path)
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{path} cannot be read", why=why, hint="write one model a line") from None
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}", hint=f"write: {_EXAMPLE}") from None
        if len(words) > 2:
            why = "a model and a repository are all that a line holds"
            raise UserError(f"{path}, line {number}: {words[2]!r} is left over", why=why, hint=f"write: {_EXAMPLE}")
        if words:
            lines.append(NamedModel(*words))
    if not lines:
        raise UserError(f"{path} names no model", hint=f"write one a line: {_EXAMPLE}")
    return lines


def entries(lines: Iterable[NamedModel], out: str, push: str | None) -> list[QueuedModel]:
    """``out`` and ``push`` hold {model} and {org}; a line's own repository comes first. Raises ``UserError`` where two
    models would get into one folder or one repository."""
    for text, flag in ((out, "--out"), (push or "", "--push")):
        _check_template(text, flag)
    template = out if "{" in out else str(Path(out) / FOLDER)
    found = [_entry(line, template, push) for line in lines]
    _check_distinct([(entry.name, str(entry.out)) for entry in found], "--out", "'out/{org}/{model}-GGUF'")
    to = [(entry.name, entry.to) for entry in found if entry.to is not None]
    for name, place in to:
        check_repository(name, place, f"name one after the model: '{name}' me/NAME-GGUF")
    _check_distinct(to, "--push", "'me/{org}_{model}-GGUF'")
    return found


def _entry(line: NamedModel, out: str, push: str | None) -> QueuedModel:
    reference = named_model(line.model)
    org, _, name = path_of(reference).rpartition("/")
    fields = {"model": name, "org": org if reference.id and org else "local"}
    return QueuedModel(
        reference, line.model, user_path(out.format(**fields)), line.to or (push and push.format(**fields))
    )


def named_model(text: str) -> ModelReference:
    return ModelReference.model_validate(DEMO if text == "demo" else _reference(text))


def check_repository(model: str, to: str, hint: str) -> None:
    """Raises ``UserError`` for a name that no repository for the files of ``model`` can have."""
    if not HUB_ID.fullmatch(to):
        raise UserError(f"{model} cannot be published to {to!r}", why="no repository can be called so", hint=hint)


def path_of(reference: ModelReference) -> str:
    """On the Hub or on this machine, without what does not name the model."""
    named = reference.id or reference.folder or reference.file or str(reference.bundled)
    return named.rstrip("/").removesuffix(".gguf")


def _reference(text: str) -> dict[str, str]:
    try:
        return model_reference(text)
    except ValidationError:
        raise UserError(f"{text!r} is no model", hint="check the spelling") from None


def _check_template(text: str, flag: str) -> None:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError:
        names = [""]
    if unknown := [name for name in names if name not in _FIELDS]:
        raise UserError(f"{flag}: there is no {{{unknown[0]}}}", hint=f"write {{{'} or {'.join(_FIELDS)}}}")


def _check_distinct(places: Sequence[tuple[str, str]], flag: str, example: str) -> None:
    taken: dict[str, str] = {}
    for model, place in places:
        if (other := taken.setdefault(place, model)) != model:
            raise UserError(f"{other} and {model} would both be made in {place}", hint=f"write {flag} {example}")
        if places.count((model, place)) > 1:
            raise UserError(f"{model} is named twice", hint="name it once")

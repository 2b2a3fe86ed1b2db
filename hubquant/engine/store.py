"""The artifacts of this machine: what was made once from the same things is never made again.

An artifact is a folder ``<kind>/<key>``. It is built under ``building/`` and renamed when it is complete, so an
artifact that exists was whole, whenever and however the process ended; its record has the size and the checksum of
every file, so that what was damaged later is found. A builder may leave its own resumable state in the folder it builds
in; whoever makes the same task next gets the same folder. Who makes an artifact holds its lock; others wait and then
find it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from uuid import uuid4

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hubquant.disk import checksum, sync, unfinished, user_path, write_all, write_at_once, writing
from hubquant.engine.task import Found, Task
from hubquant.errors import OutputError

HOME = "HUBQUANT_HOME"
RECORD = "made-from.json"
RATES = "rates.json"
TAG = "CACHEDIR.TAG"
# https://bford.info/cachedir/: the first line tells backup programs what the folder is, the second whose
_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# The store of hubquant; see `hubquant store --help`.\n"
_NAME = 24  # characters of a key in the name of a folder
_NOT_ARTIFACTS = ("building", "locks", "running")
_NOTES = "notes"  # the lock of those who write into or go by running/
_RATES = TypeAdapter(dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]])
_KEYS = TypeAdapter(list[str])


def home() -> Path:
    """Where hubquant keeps what it makes: $HUBQUANT_HOME, by default ``hubquant`` in the user's cache folder."""
    if given := os.environ.get(HOME):
        return user_path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hubquant"


class FileRecord(BaseModel):
    """``size`` in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int
    xxh3_128: str


class Record(BaseModel):
    """``inputs`` are keys; ``files`` by their path in the artifact's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    made_from: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class Kept:
    """An artifact as ``hubquant store`` lists it. ``used`` is when a run last needed it, in seconds since 1970."""

    path: Path
    kind: str
    size: int
    used: float


class Store:
    """Nothing is written before something is to be built."""

    def __init__(self, root: Path | None = None) -> None:
        """Raises ``OutputError`` for a folder that holds anything and is not a store."""
        self.root = (home() / "store" if root is None else root).absolute()
        try:
            # the tag comes first, but another process may just be putting it there
            foreign = any(self.root.iterdir()) and not (self.root / TAG).is_file()
        except FileNotFoundError:
            foreign = False
        except OSError as error:
            raise OutputError(
                f"{self.root} cannot be the store",
                why=error.strerror or str(error),
                hint=f"pass --store with a folder of your own, or set {HOME}",
            ) from None
        if foreign:
            raise OutputError(
                f"{self.root} is not a store of hubquant",
                why="it holds other files",
                hint="pass --store with a new or an empty folder",
            )

    def path(self, task: Task[Any]) -> Path:
        return self.root / task.kind / task.key[:_NAME]

    def has(self, task: Task[Any]) -> bool:
        """Whether it has been made, by its files' sizes; :meth:`damage` reads them."""
        return task.is_there() if isinstance(task, Found) else self._wrong_sizes(task) is None

    def is_there(self, task: Task[Any]) -> bool:
        """Whether there is anything, be it damaged."""
        return os.path.lexists(self.path(task))

    def damage(self, task: Task[Any], advance: Callable[[int], None] = lambda _: None) -> str | None:
        """What is wrong with an artifact, by the checksums of its files; None where nothing is."""
        try:
            if (problem := self._wrong_sizes(task)) is not None:
                return problem
            record = self._record(self.path(task))
            for name, file in record.files.items() if record else ():
                if checksum(self.path(task) / name, advance) != file.xxh3_128:
                    return f"{name} has been changed"
        except OSError as error:
            return f"it cannot be read: {error.strerror or error}"
        return None

    def size(self, task: Task[Any]) -> int:
        """Bytes that :meth:`damage` reads."""
        return _size(self._record(self.path(task)))

    def forget(self, task: Task[Any]) -> None:
        """Remove an artifact, whatever is in its place."""
        _remove(self.path(task))

    def building_path(self, task: Task[Any]) -> Path:
        return self.root / "building" / f"{task.kind}-{task.key[:_NAME]}"

    def open_building(self, task: Task[Any]) -> Path:
        """The folder to build ``task`` in; it may hold what a killed process left. Its lock must be held."""
        folder = self.building_path(task)
        self._open()
        with writing(folder):
            if not folder.is_dir():
                _remove(folder)
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def complete(self, task: Task[Any]) -> Path:
        """Publish what was built. Raises ``OutputError`` when the rename is refused."""
        folder, target = self.building_path(task), self.path(task)
        files = {}
        with writing(target):
            for path in sorted(folder.rglob("*")):
                if path.is_dir() or path == folder / RECORD:
                    continue
                sync(path)
                files[path.relative_to(folder).as_posix()] = FileRecord(
                    size=path.stat().st_size, xxh3_128=checksum(path)
                )
            inputs = {name: each.key for name, each in task.inputs.items()}
            record = Record(key=task.key, made_from=dict(task.made_from), inputs=inputs, files=files)
            write_at_once(folder / RECORD, json.dumps(record.model_dump(), indent=1, sort_keys=True).encode())
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove(target)
            folder.rename(target)
            sync(target.parent)
        return target

    @contextmanager
    def locked(self, tasks: Iterable[Task[Any]], waiting: Callable[[Task[Any]], None]) -> Iterator[None]:
        """Only one process makes ``tasks``; ``waiting`` is told of the one that another process is making.

        No other lock of the store may be held: who locks everything at once waits for nobody who waits for him.
        """
        self._open()
        with ExitStack() as stack:
            for task in sorted(tasks, key=lambda task: task.key):
                lock = FileLock(self.root / "locks" / f"{task.key[:_NAME]}.lock")
                with writing(self.root):
                    try:
                        lock.acquire(timeout=0)
                    except Timeout:
                        waiting(task)
                        lock.acquire(poll_interval=0.2)
                stack.callback(lock.release)
            yield

    @contextmanager
    def using(self, tasks: Iterable[Task[Any]]) -> Iterator[None]:
        """Meanwhile :meth:`prune` leaves ``tasks`` alone, and their time of last use is now."""
        self._open()
        tasks = list(tasks)
        note = self.root / "running" / f"{os.getpid()}-{uuid4().hex[:8]}"
        lock = FileLock(note.with_suffix(".lock"))
        with self.alone(RATES), writing(self.root):  # who is killed while he writes leaves it for ever otherwise
            unfinished(self.root / RATES).unlink(missing_ok=True)
        with self.alone(_NOTES), writing(self.root):
            for left in note.parent.glob(unfinished(Path("*")).name):
                left.unlink(missing_ok=True)
            lock.acquire()
            write_at_once(note.with_suffix(".json"), json.dumps([task.key[:_NAME] for task in tasks]).encode())
            for task in tasks:
                with suppress(FileNotFoundError):
                    os.utime(self.path(task))
        try:
            yield
        finally:
            _forget_note(note, lock)

    def check_unused(self, tasks: Iterable[Task[Any]]) -> None:
        """Raises ``OutputError`` when another process works with one of ``tasks``."""
        in_use = self._in_use(but=os.getpid())
        if used := next((task for task in tasks if task.key[:_NAME] in in_use), None):
            raise OutputError(
                f"the {used.label} cannot be made anew now",
                why="another hubquant process works with it",
                hint="wait for that one, or leave --fresh out",
            )

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Only one process does at a time what ``name`` stands for, which must be short work."""
        lock = FileLock(self.root / "locks" / f"{name}.lock")
        with writing(self.root):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def scratch(self, task: Task[Any]) -> Iterator[Path]:
        """A folder that is gone afterwards; should the process be killed, it is half built and can be pruned."""
        building = self.root / "building"
        with writing(building):
            building.mkdir(exist_ok=True)
            folder = TemporaryDirectory(dir=building, prefix="scratch-", suffix=f"-{task.key[:_NAME]}")
        with folder as name:
            yield Path(name)

    def kept(self) -> list[Kept]:
        """Every artifact, and what killed runs left half built, the one used last first."""
        found = []
        for kind in (path for path in _folders(self.root) if path.name not in _NOT_ARTIFACTS):
            for path in _folders(kind):
                with suppress(FileNotFoundError):  # what another process removes meanwhile
                    if (record := self._record(path)) is not None:
                        found.append(Kept(path, kind.name, _size(record), path.stat().st_mtime))
        for path in _folders(self.root / "building"):
            with suppress(FileNotFoundError):  # what is finished meanwhile
                files = [file.stat() for file in path.rglob("*") if file.is_file()]
                used = max((file.st_mtime for file in files), default=path.stat().st_mtime)
                found.append(Kept(path, "half built", sum(file.st_size for file in files), used))
        return sorted(found, key=lambda each: -each.used)

    def prune(self, older: float | None, max_size: int | None, *, dry_run: bool = False) -> list[Kept]:
        """Remove what was not used for ``older`` seconds, and what was used least recently of that which is above
        ``max_size`` bytes together. What a running process needs stays. Returns what was removed."""
        if dry_run or not (self.root / TAG).is_file():
            return self._prune(older, max_size, dry_run=dry_run)
        self._open()
        with self.alone(_NOTES):  # nobody begins to use what is about to be removed
            return self._prune(older, max_size, dry_run=False)

    def _prune(self, older: float | None, max_size: int | None, *, dry_run: bool) -> list[Kept]:
        in_use, now, total, removed = self._in_use(), time.time(), 0, []
        for each in self.kept():
            total += each.size
            is_old = older is not None and now - each.used > older
            if not is_old and (max_size is None or total <= max_size):
                continue
            if each.path.name.rsplit("-", 1)[-1] in in_use:
                continue
            if not dry_run:
                _remove(each.path)
            removed.append(each)
            total -= each.size
        return removed

    def rates(self) -> dict[str, float]:
        """Seconds for a unit of work, by :attr:`Task.rate`, as they were measured on this machine."""
        try:
            return _RATES.validate_json((self.root / RATES).read_bytes())
        except (OSError, ValidationError):
            return {}

    def learn(self, rates: Mapping[str, float]) -> None:
        """Take over what was measured, half and half with what was known."""
        self._open()
        with self.alone(RATES):
            known = self.rates()
            blended = {name: (value + known.get(name, value)) / 2 for name, value in rates.items()}
            write_at_once(self.root / RATES, json.dumps(known | blended, indent=1, sort_keys=True).encode())

    def _open(self) -> None:
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            if not _is_tag(self.root / TAG):
                # the same bytes in the same place, however many processes write them at once
                with open(os.open(self.root / TAG, os.O_WRONLY | os.O_CREAT, 0o666), "wb", buffering=0) as tag:
                    write_all(tag, _TAG_TEXT.encode())
            for name in ("locks", "running"):
                (self.root / name).mkdir(exist_ok=True)

    def _in_use(self, but: int | None = None) -> set[str]:
        """Names of what running processes work with, of all ``but`` one."""
        found: set[str] = set()
        for note in self.root.glob("running/*.json"):
            if note.name.startswith(f"{but}-"):
                continue
            lock = FileLock(note.with_suffix(".lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                with suppress(OSError, ValidationError):
                    found.update(_KEYS.validate_json(note.read_bytes()))
                continue
            _forget_note(note, lock)
        return found

    def _record(self, folder: Path) -> Record | None:
        try:
            return Record.model_validate_json((folder / RECORD).read_bytes())
        except (OSError, ValidationError):
            return None

    def _wrong_sizes(self, task: Task[Any]) -> str | None:
        folder = self.path(task)
        if not folder.is_dir():
            return "it is not there"
        record = self._record(folder)
        if record is None or record.key != task.key:
            return f"{RECORD} cannot be read"
        for name, file in record.files.items():
            try:
                size = (folder / name).stat().st_size
            except OSError:
                return f"{name} is missing"
            if size != file.size:
                return f"{name} has {size:,} bytes instead of {file.size:,}"
        return None


def _is_tag(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == len(_TAG_TEXT)


def _size(record: Record | None) -> int:
    return sum(file.size for file in record.files.values()) if record else 0


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _forget_note(note: Path, lock: FileLock) -> None:
    with suppress(OSError):
        note.with_suffix(".json").unlink(missing_ok=True)
    lock.release()
    with suppress(OSError):
        note.with_suffix(".lock").unlink(missing_ok=True)


def _remove(path: Path) -> None:
    with writing(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

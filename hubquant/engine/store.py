"""Content-addressed artifacts: what was made once from the same things is never made again.

An artifact is a folder ``<kind>/<fingerprint>``. It is built under ``building/`` and renamed when it is complete, so an
artifact that exists was whole, whenever and however the process ended; its record has the size and the checksum of
every file, so that what was damaged later is found. A builder may leave its own resumable state in the folder it builds
in; the next run gets the same folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from hubquant.disk import checksum, sync, write_at_once, writing
from hubquant.errors import OutputError

FOLDER = ".hubquant"
RECORD = "made-from.json"


def fingerprint(made_from: Any) -> str:
    """sha256 hex of the canonical JSON of plain data."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """``made_from`` is everything the content depends on, as plain data."""

    kind: str
    made_from: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        return fingerprint({"kind": self.kind, **self.made_from})


class FileRecord(BaseModel):
    """``size`` in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int
    xxh3_128: str


class Record(BaseModel):
    """``files`` by their path in the artifact's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    made_from: dict[str, Any]
    files: dict[str, FileRecord]


class Workspace:
    """The artifacts of one output folder, in ``<output>/.hubquant`` so that files can be linked instead of copied."""

    def __init__(self, output: Path) -> None:
        self.root = output / FOLDER

    def path(self, artifact: Artifact) -> Path:
        return self.root / artifact.kind / artifact.fingerprint[:24]

    def has(self, artifact: Artifact) -> bool:
        """Whether there is something, by its files' sizes; :meth:`damage` reads them."""
        return self._wrong_sizes(artifact) is None

    def is_there(self, artifact: Artifact) -> bool:
        """Whether there is anything, be it damaged."""
        return os.path.lexists(self.path(artifact))

    def is_recorded(self, artifact: Artifact) -> bool:
        """Whether checksums are known: the first versions kept none."""
        return self._record(artifact) is not None

    def damage(self, artifact: Artifact, advance: Callable[[int], None] = lambda _: None) -> str | None:
        """What is wrong with an artifact, by the checksums of its files; None where nothing is."""
        try:
            if (problem := self._wrong_sizes(artifact)) is not None:
                return problem
            record = self._record(artifact)
            for name, file in record.files.items() if record else ():
                if checksum(self.path(artifact) / name, advance) != file.xxh3_128:
                    return f"{name} has been changed"
        except OSError as error:
            return f"it cannot be read: {error.strerror or error}"
        return None

    def size(self, artifact: Artifact) -> int:
        """Bytes that :meth:`damage` reads."""
        record = self._record(artifact)
        return sum(file.size for file in record.files.values()) if record else 0

    def forget(self, artifact: Artifact) -> None:
        """Remove an artifact, whatever is in its place."""
        path = self.path(artifact)
        with writing(path):
            _remove(path)

    def building_path(self, artifact: Artifact) -> Path:
        return self.root / "building" / f"{artifact.kind}-{artifact.fingerprint[:24]}"

    def open_building(self, artifact: Artifact) -> Path:
        """The folder to build ``artifact`` in; it may hold what an interrupted run left."""
        folder = self.building_path(artifact)
        with writing(folder):
            if not folder.is_dir():
                _remove(folder)
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def complete(self, artifact: Artifact) -> Path:
        """Publish what was built. Raises ``OutputError`` when the rename is refused."""
        folder, target = self.building_path(artifact), self.path(artifact)
        with writing(target):
            self._write_record(artifact, folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove(target)
            folder.rename(target)
            sync(target.parent)
        return target

    def record(self, artifact: Artifact) -> None:
        """Note the checksums of an artifact that has none and was found to be sound."""
        with writing(self.path(artifact)):
            self._write_record(artifact, self.path(artifact))

    def _write_record(self, artifact: Artifact, folder: Path) -> None:
        files = {}
        for path in sorted(folder.rglob("*")):
            if path.is_dir() or path == folder / RECORD:
                continue
            sync(path)
            name = path.relative_to(folder).as_posix()
            files[name] = FileRecord(size=path.stat().st_size, xxh3_128=checksum(path))
        record = Record(made_from=dict(artifact.made_from), files=files)
        write_at_once(folder / RECORD, json.dumps(record.model_dump(), indent=1, sort_keys=True).encode())

    def _record(self, artifact: Artifact) -> Record | None:
        try:
            return Record.model_validate_json((self.path(artifact) / RECORD).read_bytes())
        except (OSError, ValidationError):
            return None

    def _wrong_sizes(self, artifact: Artifact) -> str | None:
        folder = self.path(artifact)
        if not folder.is_dir():
            return "it is not there"
        record = self._record(artifact)
        made_from = record.made_from if record else _read_json(folder / RECORD)
        if not isinstance(made_from, dict) or Artifact(artifact.kind, made_from).fingerprint != artifact.fingerprint:
            return f"{RECORD} cannot be read"
        for name, file in record.files.items() if record else ():
            try:
                size = (folder / name).stat().st_size
            except OSError:
                return f"{name} is missing"
            if size != file.size:
                return f"{name} has {size:,} bytes instead of {file.size:,}"
        return None

    def forget_artifacts(self) -> None:
        """Remove everything made before; the lock stays."""
        with writing(self.root):
            for folder in self.root.iterdir():
                if folder.is_dir():
                    shutil.rmtree(folder)

    def place(self, source: Path, target: Path) -> None:
        """Put a finished file into the output: a hard link where the file system has them, a copy otherwise; atomic."""
        with self._arriving(target) as temporary:
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
                sync(temporary)

    def write(self, target: Path, content: bytes) -> None:
        """Put a small file into the output, at once or not at all."""
        with self._arriving(target) as temporary:
            temporary.write_bytes(content)
            sync(temporary)

    @contextmanager
    def _arriving(self, target: Path) -> Iterator[Path]:
        """A place for what becomes ``target``, out of sight should the process be killed."""
        temporary = self.root / "arriving"
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            yield temporary
            temporary.replace(target)
            sync(target.parent)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process may build in an output folder."""
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / "lock", blocking=False)
            try:
                lock.acquire()
            except Timeout:
                raise OutputError(
                    f"{self.root.parent} is in use",
                    why="another hubquant process is working there",
                    hint="wait for it, or pass --out with another folder",
                ) from None
        try:
            yield
        finally:
            lock.release()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""Content-addressed artifacts: what was made once from the same things is never made again.

An artifact is a folder ``<kind>/<fingerprint>``. It is built under ``building/`` and renamed when it is complete, so an
artifact that exists is whole, whenever and however the process ended. A builder may leave its own resumable state in
the folder it builds in; the next run gets the same folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubquant.disk import writing
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


class Workspace:
    """The artifacts of one output folder, in ``<output>/.hubquant`` so that files can be linked instead of copied."""

    def __init__(self, output: Path) -> None:
        self.root = output / FOLDER

    def path(self, artifact: Artifact) -> Path:
        return self.root / artifact.kind / artifact.fingerprint[:24]

    def has(self, artifact: Artifact) -> bool:
        return self.path(artifact).is_dir()

    def building_path(self, artifact: Artifact) -> Path:
        return self.root / "building" / f"{artifact.kind}-{artifact.fingerprint[:24]}"

    def open_building(self, artifact: Artifact) -> Path:
        """The folder to build ``artifact`` in; it may hold what an interrupted run left."""
        folder = self.building_path(artifact)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def complete(self, artifact: Artifact) -> Path:
        """Publish what was built. Raises ``OutputError`` when the rename is refused."""
        folder, target = self.building_path(artifact), self.path(artifact)
        with writing(target):
            (folder / RECORD).write_text(json.dumps(artifact.made_from, indent=1, sort_keys=True), "utf-8")
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
        return target

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

    def write(self, target: Path, content: bytes) -> None:
        """Put a small file into the output, at once or not at all."""
        with self._arriving(target) as temporary:
            temporary.write_bytes(content)

    @contextmanager
    def _arriving(self, target: Path) -> Iterator[Path]:
        """A place for what becomes ``target``, out of sight should the process be killed."""
        temporary = self.root / "arriving"
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            yield temporary
            temporary.replace(target)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process may build in an output folder."""
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            handle = (self.root / "lock").open("w")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise OutputError(
                    f"{self.root.parent} is in use",
                    why="another hubquant process is working there",
                    hint="wait for it, or pass --out with another folder",
                ) from None
            yield

"""The folder that a run writes to: what hubquant made in it, and nothing else, is replaced, removed and published."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from hubquant.disk import inside, locked, place, sha256_of, sync, writing
from hubquant.engine.store import Store
from hubquant.errors import OutputError
from hubquant.pipeline.contents import CARD, IMATRIX, MEASUREMENTS, PLOT, RECIPE
from hubquant.publish.card import is_own

FOLDER = ".hubquant"
MANIFEST = "manifest.json"
ARRIVING = "arriving"
# what earlier versions kept here instead of in the store
EARLIER = ("imatrix", "baseline", "file", "verification", "runtime", "evaluation", "building")
OF_THE_SYSTEM = {".DS_Store", "Thumbs.db", "desktop.ini"}
SHOWN = 4  # names in one message
TEXTS = (CARD, RECIPE)
UNTRACED = (*TEXTS, PLOT, IMATRIX, MEASUREMENTS)


class Made(BaseModel):
    """One state of a file, as it was when hubquant had written it."""

    model_config = ConfigDict(frozen=True)

    size: int
    mtime_ns: int
    sha256: str


class _Manifest(BaseModel):
    """By path in the folder, with slashes. A file has several states only while one replaces the other."""

    version: Literal[1] = 1
    files: dict[Annotated[str, AfterValidator(inside)], tuple[Made, ...]] = {}


class OutputFolder:
    """Knows every file that hubquant made here, from ``.hubquant/manifest.json``.

    A folder of an earlier version has no manifest: what it made is told by its artifacts, and those of ``store``.
    """

    def __init__(self, root: Path, store: Store | None = None) -> None:
        """Reads only. Raises ``OutputError`` for a folder that holds anything and is not hubquant's own."""
        self.root = root
        self._state = root / FOLDER
        self.was_ours = self._state.is_dir()
        self._made: dict[str, tuple[Made, ...]] = {}
        self._untraced: set[str] = set()
        if root.exists() and not root.is_dir():
            raise OutputError(f"{root} is a file", hint="pass --out with a folder")
        if not self.was_ours and (found := _entries(root)):
            raise OutputError(
                f"{root} holds files that hubquant did not make",
                why=_listed(found),
                hint="pass --out with a new or an empty folder",
            )
        for path in (self._state, *(self._state.rglob("*") if self.was_ours else ())):
            if path.is_symlink():
                raise OutputError(f"{path} is a link", why="it may lead out of the folder", hint="remove it")
        if self.was_ours:
            self._made = self._read(store)

    def __contains__(self, name: str) -> bool:
        return name in self._made and os.path.lexists(self.root / name)

    def __iter__(self) -> Iterator[str]:
        """What hubquant made and is still there."""
        return (name for name in sorted(self._made) if name in self)

    def foreign(self) -> list[str]:
        """What is here and is not hubquant's; it is left alone."""
        return [name for name in _files(self.root) if name not in self._made and name not in OF_THE_SYSTEM]

    def check(self, wanted: Iterable[str], sources: Mapping[str, Sequence[Path]] | None = None) -> None:
        """Raise ``OutputError`` when one of the ``wanted`` files would take the place of what is not hubquant's, or was
        changed by somebody else. A file that is the same as one of its ``sources`` on the disk is hubquant's."""
        for name in wanted:
            self._check_parents(name)
            path = self.root / name
            there = [source for source in (sources or {}).get(name, ()) if source.exists()]
            if not os.path.lexists(path) or any(_is_same(path, source) for source in there):
                continue
            if name not in self._made:
                raise OutputError(
                    f"{path} is not hubquant's",
                    why="this run writes a file of that name",
                    hint="move it to another folder, or pass --out with another one",
                )
            if not self.is_unchanged(name):
                raise OutputError(
                    f"{path} was changed since hubquant wrote it",
                    why="this run would write it anew",
                    hint="give it another name, or delete it, and run the same line again",
                )

    def sha256(self, name: str) -> str:
        """Of a file that hubquant made, as it made it."""
        return self._made[name][-1].sha256

    def is_unchanged(self, name: str) -> bool:
        path = self.root / name
        if not _is_regular(path):
            return False
        found = path.stat()
        same_size = [made for made in self._made.get(name, ()) if made.size == found.st_size]
        if any(made.mtime_ns == found.st_mtime_ns for made in same_size):
            return True
        return bool(same_size) and sha256_of(path) in {made.sha256 for made in same_size}

    def place(self, source: Path, name: str) -> None:
        """Put a finished file here; see :func:`hubquant.disk.place`."""
        target = self.root / name
        if name in self._made and self.is_unchanged(name) and _is_same(target, source):
            return
        status = source.stat()
        made = Made(size=status.st_size, mtime_ns=status.st_mtime_ns, sha256=sha256_of(source))
        with self._replacing(name, made):
            place(source, target, self._state / ARRIVING)

    def write(self, name: str, content: bytes) -> Path | None:
        """Put a small file here, at once or not at all.

        Returns where the file was moved to that it replaces, if that one may have been edited.
        """
        kept = self._keep(name, content) if name in self._untraced else None
        made = Made(size=len(content), mtime_ns=0, sha256=hashlib.sha256(content).hexdigest())
        with self._replacing(name, made):
            self._write(self.root / name, content)
        return kept

    def remove(self, name: str) -> None:
        """Only what hubquant made, and as it made it."""
        self._check_parents(name)
        with writing(self.root / name):
            if self.is_unchanged(name):
                (self.root / name).unlink()
        self._made.pop(name, None)
        self.save()

    def publishable(self) -> dict[str, str]:
        """sha256 by path of everything that hubquant made here, the card as it is now.

        Raises ``OutputError`` for any other file that was changed.
        """
        digests = {}
        for name in self:
            self._check_parents(name)
            path = self.root / name
            if name == CARD and _is_regular(path):
                digests[name] = sha256_of(path)
            elif self.is_unchanged(name):
                digests[name] = self._made[name][-1].sha256
            else:
                raise OutputError(
                    f"{path} was changed since hubquant made it",
                    hint="run the line again that made the folder, then publish it",
                )
        return digests

    def save(self) -> None:
        manifest = _Manifest(files=dict(sorted(self._made.items())))
        with writing(self._state):
            self._state.mkdir(parents=True, exist_ok=True)
        self._write(self._state / MANIFEST, manifest.model_dump_json(indent=1).encode())

    def state(self, name: str) -> bytes:
        """What :meth:`keep_state` kept. Raises ``OSError``."""
        return (self._state / name).read_bytes()

    def keep_state(self, name: str, content: bytes) -> None:
        """Beside the manifest."""
        self._write(self._state / name, content)

    def forget_earlier_state(self) -> None:
        """Remove what an earlier version kept here of its work."""
        for name in EARLIER:
            with writing(self._state):
                if (self._state / name).is_dir():
                    shutil.rmtree(self._state / name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process may write to an output folder."""
        in_use = OutputError(
            f"{self.root} is in use",
            why="another hubquant process is working there",
            hint="wait for it, or pass --out with another folder",
        )
        with locked(self._state / "lock", in_use):
            yield

    def _write(self, target: Path, content: bytes) -> None:
        """At once or not at all, and out of sight should the process be killed."""
        temporary = self._state / ARRIVING
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)  # which may be a link that a killed process was about to place
            temporary.write_bytes(content)
            sync(temporary)
            temporary.replace(target)
            sync(target.parent)

    def _keep(self, name: str, content: bytes) -> Path | None:
        """Move away a text that an earlier version wrote and somebody may since have edited."""
        self._untraced.remove(name)
        path = self.root / name
        if name not in TEXTS or path.read_bytes() == content:
            return None
        copy = _free(path.with_name(f"{path.stem}.earlier{path.suffix}"))
        with writing(copy):
            path.rename(copy)
        return copy

    @contextmanager
    def _replacing(self, name: str, made: Made) -> Iterator[None]:
        """Record the new state before it is there and drop the old one after: a kill leaves a file that is known."""
        self._check_parents(name)
        if name not in self._made and os.path.lexists(self.root / name):
            raise OutputError(f"{self.root / name} is not hubquant's", why="it came there during the run")
        self._made[name] = (*self._made.get(name, ()), made)
        self.save()
        yield
        self._made[name] = (made.model_copy(update={"mtime_ns": (self.root / name).stat().st_mtime_ns}),)
        self.save()

    def _check_parents(self, name: str) -> None:
        for parent in PurePosixPath(name).parents:
            path = self.root / parent
            if parent.parts and os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
                raise OutputError(
                    f"{path} is no folder of hubquant's", hint="remove it, or pass --out with another one"
                )

    def _read(self, store: Store | None) -> dict[str, tuple[Made, ...]]:
        try:
            return dict(_Manifest.model_validate_json((self._state / MANIFEST).read_bytes()).files)
        except (OSError, ValidationError):
            return self._adopt(store)

    def _adopt(self, store: Store | None) -> dict[str, tuple[Made, ...]]:
        """What an earlier version made here: files that its artifacts hold, and the card's own if the card is its."""
        roots = [self._state, *([store.root] if store else [])]
        artifacts = [path for root in roots for kind in ("file", "imatrix") for path in root.glob(f"{kind}/*/*.gguf")]
        found = {}
        for name in _files(self.root):
            path = self.root / name
            named_so = [artifact for artifact in artifacts if artifact.name == path.name]
            if any(_is_same(path, a) for a in named_so) or any(_is_same(path, a, content=True) for a in named_so):
                found[name] = path
        card = self.root / CARD
        if found and _is_regular(card) and is_own(card.read_text("utf-8", "replace")):
            of_results = (p for p in self.root.glob(".eval_results/*.yaml") if not p.parent.is_symlink())
            names = [*UNTRACED, *(f".eval_results/{path.name}" for path in of_results)]
            self._untraced = {name for name in names if name not in found and _is_regular(self.root / name)}
        made = {**found, **{name: self.root / name for name in self._untraced}}
        return {name: (_state_of(path),) for name, path in made.items()}


def _state_of(path: Path) -> Made:
    status = path.stat()
    return Made(size=status.st_size, mtime_ns=status.st_mtime_ns, sha256=sha256_of(path))


def _is_regular(path: Path) -> bool:
    """Not a link, whatever it leads to."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _is_same(path: Path, other: Path, *, content: bool = False) -> bool:
    """The same file on the disk or, with ``content``, one of the same bytes."""
    if not _is_regular(path):
        return False
    if os.path.samefile(path, other):
        return True
    return content and path.stat().st_size == other.stat().st_size and sha256_of(path) == sha256_of(other)


def _files(root: Path) -> list[str]:
    """Paths of everything in a folder but folders and hubquant's state; links are not followed."""
    found = []
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        if not here.parts and FOLDER in folders:
            folders.remove(FOLDER)
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        found += [(here / name).as_posix() for name in (*files, *links)]
    return sorted(found)


def _entries(root: Path) -> list[str]:
    with writing(root):
        return sorted(path.name for path in root.iterdir() if path.name not in OF_THE_SYSTEM) if root.is_dir() else []


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"it holds {', '.join(names[:SHOWN])}{more}"


def _free(path: Path) -> Path:
    candidates = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in range(2, 1000))
    return path if not path.exists() else next(candidate for candidate in candidates if not candidate.exists())

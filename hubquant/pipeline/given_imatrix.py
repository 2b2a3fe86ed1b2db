"""Importance matrices that are named instead of collected, and which of a matrix's entries are used."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.backend import ImatrixFacts, Importance
from hubquant.disk import public_name, sha256_of, user_path, writing
from hubquant.engine.task import Context
from hubquant.errors import ImatrixError
from hubquant.imatrix import CALIBRATION, load_imatrix, merge, save, selected
from hubquant.imatrix.files import is_gguf
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.imatrix_task import ImatrixTask
from hubquant.recipe.names import HUB_PREFIX
from hubquant.recipe.schema import Imatrix
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from hubquant.imatrix import ImportanceMatrix


@dataclass(frozen=True, eq=False)
class GivenImatrix(ImatrixTask):
    """A copy of the matrix in ``paths``, merged where they are several, with all its entries.

    ``sha256`` has that of each file. Texts that were read are named without their folders.
    """

    paths: tuple[Path, ...]
    sha256: tuple[str, ...]

    @property
    def step(self) -> str:
        return ""

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"sha256": self.sha256}

    def make(self, folder: Path, context: Context) -> None:  # noqa: ARG002
        if tuple(map(sha256_of, self.paths)) != self.sha256:
            raise ImatrixError(
                f"{self.paths[0].name} was changed while it was used", hint="run the same line again with the new one"
            )
        target, matrix = folder / IMATRIX, self.sum()
        public = _public(matrix)
        if public.datasets == matrix.datasets and len(self.paths) == 1 and is_gguf(self.paths[0]):
            with writing(target):
                shutil.copyfile(self.paths[0], target)
        else:
            save(public, target)

    def sum(self) -> ImportanceMatrix:
        """As it is in the files."""
        return read_sum(self.paths)


def open_imatrix(settings: Imatrix, component: Component) -> tuple[Importance, int]:
    """The matrix that ``settings`` name, for the weights of ``component``, and how many entries it has. Raises
    ``ImatrixError`` when it belongs to another model."""
    paths = tuple(imatrix_path(reference) for reference in settings.given)
    given = GivenImatrix(paths, tuple(map(sha256_of, paths)))
    matrix = _public(component.fitted(given.sum()))
    covered = used_names(matrix.entries, settings)
    facts = ImatrixFacts(
        ", ".join(path.name for path in paths),
        matrix.datasets[0] if matrix.datasets else "",
        len(covered),
        matrix.chunk_count,
        matrix.provenance.get(CALIBRATION),
    )
    used = Importance(given, facts, covered, settings.include_weights, settings.exclude_weights)
    return used, len(matrix.entries)


def _public(matrix: ImportanceMatrix) -> ImportanceMatrix:
    """llama-imatrix records the text as it was typed, with its folders; what is published shows its name only."""
    return replace(matrix, datasets=tuple(map(public_name, matrix.datasets)))


def read_sum(paths: Sequence[Path], weights: Sequence[float] | None = None) -> ImportanceMatrix:
    """One matrix as it is, unless it has a weight; several added up, one in memory at a time."""
    if len(paths) == 1 and weights is None:
        return load_imatrix(paths[0])
    return merge(map(load_imatrix, paths), weights)


def imatrix_path(reference: str) -> Path:
    """Where a local file, or ``hub:org/repo/file``, is; that of the Hub is downloaded. Raises ``ImatrixError`` when
    there is none."""
    if reference.startswith(HUB_PREFIX):
        return _fetch(reference)
    path = user_path(reference)
    if os.path.isdir(path):
        raise ImatrixError(f"{path} is a folder", hint=f"name the file, such as {path / 'imatrix.gguf'}")
    if not os.path.isfile(path):
        on_the_hub = not path.is_absolute() and len(path.parts) > 2 and not os.path.exists(path.parts[0])
        raise ImatrixError(
            f"there is no imatrix {path}",
            hint=f"if it is on the Hub, write {HUB_PREFIX}{reference}"
            if on_the_hub
            else "check the path, or make one with: hubquant imatrix collect MODEL -o imatrix.gguf",
        )
    return path


def used_names(names: Iterable[str], settings: Imatrix) -> tuple[str, ...]:
    """The entries that ``settings`` leave. Raises ``ImatrixError`` when that is none."""
    names = tuple(names)
    left = selected(names, settings.include_weights, settings.exclude_weights)
    if names and not left:
        raise ImatrixError(
            f"{_filter(settings)} leaves no entry of the importance matrix",
            why=f"it has {names[0]}, and {len(names) - 1} more",
            hint="hubquant imatrix show FILE lists its entries",
        )
    return left


def use_notes(n_entries: int, n_used: int, settings: Imatrix) -> list[str]:
    """How many of the matrix's entries are dropped, if some may be."""
    if not settings.include_weights and not settings.exclude_weights:
        return []
    return [f"{n_entries - n_used} of the importance matrix's {n_entries} entries are not used ({_filter(settings)})"]


def _filter(settings: Imatrix) -> str:
    names = ("include_weights", "exclude_weights")
    return ", ".join(f"{name}: {' '.join(parts)}" for name in names if (parts := getattr(settings, name)))


def _fetch(reference: str) -> Path:
    from hubquant.hub.pull import fetch_file

    parts = reference.removeprefix(HUB_PREFIX).split("/", 2)
    if len(parts) != 3:
        raise ImatrixError(f"{reference} names no file", hint="write hub:org/repo/imatrix.gguf")
    return fetch_file(f"{parts[0]}/{parts[1]}", parts[2])

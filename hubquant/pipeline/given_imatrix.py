"""Importance matrices that are named instead of collected, and which of a matrix's entries are used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hubquant.backends.gguf.files import ImatrixFacts, Weights
from hubquant.disk import public_name, sha256_of, user_path
from hubquant.engine.store import Artifact
from hubquant.errors import ImatrixError
from hubquant.imatrix import CALIBRATION, ImportanceMatrix, load_imatrix, merge, selected
from hubquant.imatrix.files import is_gguf
from hubquant.recipe.schema import HUB_PREFIX, Imatrix


@dataclass(frozen=True)
class GivenImatrix:
    """``matrix`` has all entries, also those that are not used; ``path`` is the GGUF file that holds it just so, None
    where there is no such file (several were merged, it is a .dat, or it names a text with its folders)."""

    path: Path | None
    matrix: ImportanceMatrix
    facts: ImatrixFacts
    artifact: Artifact


def open_imatrix(settings: Imatrix, weights: Weights) -> GivenImatrix:
    """The matrix that ``settings`` name, merged where they name several. Raises ``ImatrixError`` when it belongs to
    another model."""
    references = settings.given
    paths = [imatrix_path(reference) for reference in references]
    matrix = read_sum(paths).fit(weights.shapes)
    # llama-imatrix records the text as it was typed, with its folders; what is published shows its name only
    datasets = tuple(map(public_name, matrix.datasets))
    as_it_is = datasets == matrix.datasets and len(paths) == 1 and is_gguf(paths[0])
    matrix = replace(matrix, datasets=datasets)
    facts = ImatrixFacts(
        ", ".join(path.name for path in paths),
        datasets[0] if datasets else "",
        len(used_names(matrix.entries, settings)),
        matrix.chunk_count,
        matrix.provenance.get(CALIBRATION),
    )
    digests = "+".join(map(sha256_of, paths))
    return GivenImatrix(paths[0] if as_it_is else None, matrix, facts, Artifact("imatrix", {"sha256": digests}))


def read_sum(paths: Sequence[Path], weights: Sequence[float] | None = None) -> ImportanceMatrix:
    """One matrix as it is, unless it has a weight; several added up, one in memory at a time."""
    first = load_imatrix(paths[0])
    if len(paths) == 1 and weights is None:
        return first
    return merge([first, *map(load_imatrix, paths[1:])], weights)


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


def used(matrix: ImportanceMatrix, settings: Imatrix) -> ImportanceMatrix:
    return matrix.select(settings.include_weights, settings.exclude_weights)


def used_artifact(artifact: Artifact, settings: Imatrix) -> Artifact:
    """What a file depends on that is quantized with the entries that ``settings`` leave."""
    if not settings.include_weights and not settings.exclude_weights:
        return artifact
    part = {"include_weights": settings.include_weights, "exclude_weights": settings.exclude_weights}
    return Artifact("imatrix", {"of": artifact.fingerprint, **part})


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

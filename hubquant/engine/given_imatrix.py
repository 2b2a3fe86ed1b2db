"""An importance matrix that the recipe names instead of having one collected."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hubquant.engine.files import ImatrixFacts, Weights
from hubquant.engine.workspace import Artifact
from hubquant.errors import ImatrixError
from hubquant.imatrix import ImportanceMatrix

HUB_PREFIX = "hub:"


@dataclass(frozen=True)
class GivenImatrix:
    path: Path
    matrix: ImportanceMatrix
    facts: ImatrixFacts
    artifact: Artifact


def open_imatrix(reference: str, weights: Weights, modules: Mapping[str, str]) -> GivenImatrix:
    """A local file, or ``hub:org/repo/file``. Raises ``ImatrixError`` when it belongs to another model."""
    path = _fetch(reference) if reference.startswith(HUB_PREFIX) else Path(reference).expanduser()
    if not path.is_file():
        raise ImatrixError(f"there is no imatrix {path}", hint="check imatrix.file, or remove it to have one collected")
    matrix = ImportanceMatrix.load(path)
    matrix.check({name: weights.shapes[name][-1] for name in modules.values() if name in weights.shapes})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    datasets = matrix.datasets or ("",)
    facts = ImatrixFacts(Path(reference).name, datasets[0], len(matrix.entries), matrix.chunk_count)
    return GivenImatrix(path, matrix, facts, Artifact("imatrix", {"sha256": digest}))


def _fetch(reference: str) -> Path:
    from hubquant.hub.pull import fetch_file

    parts = reference.removeprefix(HUB_PREFIX).split("/", 2)
    if len(parts) != 3:
        raise ImatrixError(f"{reference} names no file", hint="write hub:org/repo/imatrix.gguf")
    return fetch_file(f"{parts[0]}/{parts[1]}", parts[2])

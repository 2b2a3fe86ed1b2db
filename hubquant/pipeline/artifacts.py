"""What each artifact of a run depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.backends.gguf.files import FilePlan, Weights, file_artifact
from hubquant.engine.store import Artifact
from hubquant.pipeline.given_imatrix import GivenImatrix, used_artifact
from hubquant.recipe.schema import Recipe
from hubquant.sources.source import SourceModel
from hubquant.version import __version__

if TYPE_CHECKING:
    from hubquant.calibration import Chunks


@dataclass(frozen=True)
class Artifacts:
    """``imatrix`` is None when none is collected, ``baseline`` when nothing is evaluated; the maps are by file type."""

    imatrix: Artifact | None
    baseline: Artifact | None
    files: Mapping[str, Artifact]
    verifications: Mapping[str, Artifact]
    runtimes: Mapping[str, Artifact]
    evaluations: Mapping[str, Artifact]


def plan_artifacts(
    recipe: Recipe,
    source: SourceModel,
    weights: Weights,
    given: GivenImatrix | None,
    calibration: Chunks | None,
    evaluation: Chunks | None,
    files: Sequence[FilePlan],
    shard_bytes: int,
) -> Artifacts:
    collected, baseline = None, None
    if calibration is not None:
        output = recipe.imatrix.process_output
        collected = _of_model("imatrix", source, tokens=calibration.fingerprint, process_output=output)
    if evaluation is not None:
        baseline = _of_model("baseline", source, tokens=evaluation.fingerprint)
    whole = given.artifact if given else collected
    imatrix = used_artifact(whole, recipe.imatrix) if whole else None
    made = {
        file.ftype: file_artifact(
            weights, file.name, file.ftype, recipe.quantize, shard_bytes, source.identity, imatrix
        )
        for file in files
    }
    return Artifacts(
        imatrix=collected,
        baseline=baseline,
        files=made,
        verifications={ftype: _of_file("verification", file) for ftype, file in made.items()},
        runtimes={ftype: _of_file("runtime", file, llamacpp=llamacpp_version()) for ftype, file in made.items()},
        evaluations={ftype: _of_file("evaluation", file, baseline=baseline.fingerprint) for ftype, file in made.items()}
        if baseline
        else {},
    )


def llamacpp_version() -> str | None:
    """The installed llama.cpp runtime, without loading it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("xllamacpp")
    except PackageNotFoundError:
        return None


def _of_model(kind: str, source: SourceModel, **more: object) -> Artifact:
    return Artifact(kind, {**source.identity, "hubquant": __version__, **more})


def _of_file(kind: str, file: Artifact, **more: object) -> Artifact:
    return Artifact(kind, {"file": file.fingerprint, "hubquant": __version__, **more})

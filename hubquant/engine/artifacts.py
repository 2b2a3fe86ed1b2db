"""What each artifact of a run depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hubquant import __version__
from hubquant.engine.files import FilePlan, Weights, file_artifact
from hubquant.engine.given_imatrix import GivenImatrix
from hubquant.engine.source import SourceModel
from hubquant.engine.workspace import Artifact
from hubquant.recipe.schema import Recipe, TextSource


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
    files: Sequence[FilePlan],
    shard_bytes: int,
) -> Artifacts:
    imatrix = given.artifact if given else None
    if given is None and not recipe.imatrix.skip:
        calibration = recipe.calibration
        tokens = text_identity(calibration.sources, calibration.chunk_size, calibration.chunks, calibration.seed)
        output = recipe.imatrix.process_output
        imatrix = Artifact("imatrix", {**source.identity, "tokens": tokens, "process_output": output, "hubquant": __version__})
    baseline = None
    if not recipe.evaluate.skip:
        tokens = text_identity(recipe.evaluate.sources, recipe.evaluate.chunk_size, recipe.evaluate.chunks, 0)
        baseline = Artifact("baseline", {**source.identity, "tokens": tokens, "hubquant": __version__})
    made = {
        file.ftype: file_artifact(weights, file.name, file.ftype, recipe.quantize, shard_bytes, source.identity, imatrix)
        for file in files
    }
    return Artifacts(
        imatrix=None if given else imatrix,
        baseline=baseline,
        files=made,
        verifications={ftype: _after("verification", file) for ftype, file in made.items()},
        runtimes={ftype: _after("runtime", file, llamacpp=llamacpp_version()) for ftype, file in made.items()},
        evaluations={ftype: _after("evaluation", file, baseline=baseline.fingerprint) for ftype, file in made.items()}
        if baseline
        else {},
    )


def text_identity(sources: Sequence[TextSource], chunk_size: int, chunks: int, seed: int) -> dict[str, object]:
    from hubquant.calibration import source_fingerprint

    return {
        "sources": [source_fingerprint(source) for source in sources],
        "chunk_size": chunk_size,
        "chunks": chunks,
        "seed": seed,
    }


def llamacpp_version() -> str | None:
    """The installed llama.cpp runtime, without loading it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("xllamacpp")
    except PackageNotFoundError:
        return None


def _after(kind: str, file: Artifact, **more: str | None) -> Artifact:
    return Artifact(kind, {"file": file.fingerprint, "hubquant": __version__, **more})

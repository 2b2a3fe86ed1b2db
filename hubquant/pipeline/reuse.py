"""What an earlier run left: used where it is sound, made again where it is not."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import TypeAdapter, ValidationError

from hubquant.engine.store import Artifact
from hubquant.errors import HubquantError
from hubquant.imatrix import load_imatrix
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.work import BASELINE, RESULT, Work


def discard_damaged(work: Work) -> None:
    """Remove every artifact of the plan that is not what was made, with a note. All that is there is read, for a hard
    link shares what is done to it with the output folder.

    An artifact of a version that kept no checksums is judged by its content, and such a file is verified once more.
    """
    workspace, made = work.workspace, work.plan.artifacts
    there = [(label, artifact) for label, artifact in _all(work) if workspace.is_there(artifact)]
    if not there:
        return
    verifications = {made.files[ftype].fingerprint: artifact for ftype, artifact in made.verifications.items()}
    with work.progress.bar("check", sum(workspace.size(artifact) for _, artifact in there), "B") as advance:
        for label, artifact in there:
            if not workspace.is_there(artifact):  # forgotten with its file
                continue
            is_recorded = workspace.is_recorded(artifact)
            problem = workspace.damage(artifact, advance) or _content_problem(work, artifact)
            if problem:
                work.progress.note(f"the {label} of an earlier run is damaged ({problem}): it is made again")
                work.forget(artifact)
            elif not is_recorded:
                workspace.record(artifact)
            if artifact.fingerprint in verifications and (problem or not is_recorded):
                work.forget(verifications[artifact.fingerprint])


def _all(work: Work) -> Iterator[tuple[str, Artifact]]:
    """With a name of each for a message."""
    made = work.plan.artifacts
    if made.imatrix is not None:
        yield "importance matrix", made.imatrix
    if made.baseline is not None:
        yield "baseline", made.baseline
    by_type = {
        "file": made.files,
        "verification": made.verifications,
        "check in llama.cpp": made.runtimes,
        "evaluation": made.evaluations,
    }
    for label, artifacts in by_type.items():
        for ftype, artifact in artifacts.items():
            yield f"{ftype} {label}", artifact


def _content_problem(work: Work, artifact: Artifact) -> str | None:
    """Why what is in an artifact cannot be used, as far as its content tells."""
    from hubquant.evaluate import Baseline, Divergence, TensorCheck
    from hubquant.llamacpp.runtime import RuntimeCheck

    folder = work.workspace.path(artifact)
    types = {"evaluation": Divergence, "runtime": RuntimeCheck, "verification": TensorCheck}
    try:
        match artifact.kind:
            case "imatrix":
                load_imatrix(folder / IMATRIX).fit(work.plan.weights.shapes)
            case "baseline":
                with Baseline.open(folder / BASELINE) as baseline:
                    evaluation = work.plan.evaluation
                    if evaluation is None or baseline.identity.chunks_fingerprint != evaluation.fingerprint:
                        return f"{BASELINE} is of another text"
            case "file":
                file = next(f for f in work.plan.files if work.plan.artifacts.files[f.ftype] == artifact)
                for path, layout in zip(work.file_paths(file), file.layouts, strict=True):
                    if not layout.fits(path):
                        return f"{path.name} is not the file that the plan describes"
            case kind:
                TypeAdapter(types[kind]).validate_json((folder / RESULT).read_bytes())
    except HubquantError as error:
        return str(error)
    except (OSError, ValidationError):
        return f"{RESULT} cannot be read"
    return None

"""Check what was written before anything leaves: every tensor against its source, the file in llama.cpp's runtime."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import TypeAdapter

from hubquant.convert.conversion import stream
from hubquant.errors import VerificationError
from hubquant.evaluate import TensorCheck, verify_files
from hubquant.pipeline.work import Work

WORST = TypeAdapter(TensorCheck)


def verify(work: Work) -> Mapping[str, TensorCheck]:
    """The tensor of each file that is nearest to the limit of its type, by file type.

    Raises ``VerificationError``; the files that were not verified before are then removed, so that the next run makes
    them again.
    """
    plan, made = work.plan, work.plan.artifacts
    missing = work.missing(made.verifications)
    work.progress.step("verify", ", ".join(file.ftype for file in missing or plan.files), reused=not missing)
    if missing:
        tensors = stream(plan.conversion, work.source.checkpoint)
        paths = [work.file_paths(file)[0] for file in missing]
        with work.progress.bar("verify", len(plan.conversion.shapes), "tensors") as advance:
            try:
                checks = verify_files(paths, tensors, mode=plan.recipe.quantize.mode, advance=advance)
            except VerificationError:
                for file in missing:
                    work.forget(made.files[file.ftype])
                raise
        for file, check in zip(missing, checks, strict=True):
            work.keep_result(made.verifications[file.ftype], WORST, check.worst[0])
    return {ftype: work.result(artifact, WORST) for ftype, artifact in made.verifications.items()}

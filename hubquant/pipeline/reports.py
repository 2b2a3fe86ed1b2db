"""What is told of each file and folder of a recipe, from what its tasks have found."""

from __future__ import annotations

from pathlib import Path
from statistics import geometric_mean

from hubquant.backends.gguf.feedback import read_rounded
from hubquant.engine.task import Context
from hubquant.evaluate import Divergence, Similarity, check_plausible
from hubquant.evaluate.pictures import Fidelity, check_faithful
from hubquant.evaluate.plausible import fewest_bits
from hubquant.evaluate.similarity import check_similar
from hubquant.evaluate.speed import Speed
from hubquant.llamacpp.runtime import RuntimeCheck
from hubquant.pipeline.drawing.measured import Chosen
from hubquant.pipeline.drawing.page import programs_of
from hubquant.pipeline.folders import FolderTasks
from hubquant.pipeline.in_llamacpp import EvaluationInLlamaCpp
from hubquant.pipeline.tasks import FileTasks, RecipeTasks
from hubquant.publish.fed_back import FedBack
from hubquant.publish.in_library import InLibrary
from hubquant.publish.recommendation import MeasuredFile
from hubquant.publish.report import FileReport
from hubquant.recipe.schema import Gates


def file_reports(tasks: RecipeTasks, context: Context, gates: Gates) -> list[FileReport]:
    """From the largest to the smallest. Raises ``EvaluationError`` for a file that cannot be what its source is."""
    reports = [
        *(_report(each, _speed(tasks, each, context), context, gates) for each in tasks.files),
        *(_folder_report(each, context, gates) for each in tasks.folders),
    ]
    return sorted(reports, key=lambda each: -each.measured.size)


def _speed(tasks: RecipeTasks, file: FileTasks, context: Context) -> Speed | None:
    timed = next((each for each in tasks.speeds if each.file == file.file), None)
    return context.read(timed).speed if timed else None


def _report(made: FileTasks, speed: Speed | None, context: Context, gates: Gates) -> FileReport:
    tasks = made.kept(context)
    plan = tasks.plan
    found: object = context.read(tasks.evaluation) if tasks.evaluation else None
    with_imatrix = found.with_imatrix if isinstance(found, Chosen) else None
    found = found.fidelity if isinstance(found, Chosen) else found
    if not tasks.file.settings.prune_layers:
        _check(Path(plan.name).name, fewest_bits(plan.types.values()), found)
    measured = MeasuredFile(
        file=plan.paths[0],
        type=plan.label,
        size=plan.size,
        bpw=plan.bpw,
        divergence=found if isinstance(found, Divergence) else None,
        runtime=_runtime(tasks, context),
        fork=plan.fork,
        in_llamacpp=context.read(tasks.in_llamacpp) if tasks.in_llamacpp else None,
        similarity=found if isinstance(found, Similarity) else None,
        fidelity=found if isinstance(found, Fidelity) else None,
        with_imatrix=with_imatrix,
        loaded_by=programs_of(tasks.file),
        in_diffusers=context.read(tasks.in_diffusers) if tasks.in_diffusers else None,
        speed=speed,
        fed_back=_fed_back(made, context),
    )
    return FileReport(measured, worst_tensor=context.read(tasks.verification), gate=_gate(gates, plan.label, found))


def _folder_report(tasks: FolderTasks, context: Context, gates: Gates) -> FileReport:
    folder, label = tasks.folder, tasks.plan.label
    facts, reloaded = folder.facts(context), context.read(tasks.reloaded)
    found: object = context.read(tasks.evaluation) if tasks.evaluation else None
    found = found.fidelity if isinstance(found, Chosen) else found
    for name in facts.left:
        context.progress.note(f"{label}: {name} stays in floats")
    _check(tasks.plan.name, folder.backend.types[folder.type].bits, found)
    measured = MeasuredFile(
        file=tasks.plan.name,
        type=label,
        size=facts.size,
        bpw=facts.bpw,
        divergence=found if isinstance(found, Divergence) else None,
        fidelity=found if isinstance(found, Fidelity) else None,
        library=InLibrary(
            folder.backend.name,
            facts.versions,
            facts.n_layers,
            len(facts.left),
            reloaded.difference,
            calibrated=folder.calibration is not None,
            dtype=facts.dtype,
            error=reloaded.layers.error if reloaded.layers else None,
        ),
        speed=reloaded.speed,
    )
    return FileReport(measured, worst_tensor=None, gate=_gate(gates, label, found))


def _fed_back(made: FileTasks, context: Context) -> FedBack | None:
    found = read_rounded(context.store.path(made.file)) if made.file.moments else []
    if not found:
        return None
    left = [min(1.0, max(1e-9, each.feedback / each.nearest)) for each in found if each.nearest > 0]
    share = geometric_mean(left) if left else 1.0
    nearest = tuple(each.name for each in found if not each.is_kept)
    return FedBack(len(found), nearest, share, made.shares(context))


def _runtime(tasks: FileTasks, context: Context) -> RuntimeCheck | None:
    if tasks.file.component.denoises or isinstance(tasks.evaluation, EvaluationInLlamaCpp):
        return None
    why_not = "nothing was evaluated" if tasks.evaluation is None else "encoders are not run in it here"
    return context.read(tasks.runtime) if tasks.runtime else RuntimeCheck(skipped=why_not)


def _gate(gates: Gates, label: str, found: object) -> float | None:
    """The bound on what was ``found``."""
    bounds = {Similarity: gates.cosine_mean, Fidelity: gates.prediction_error}
    return bounds.get(type(found), gates.kld_mean).get(label)


def _check(name: str, bits: float, found: object) -> None:
    if isinstance(found, Divergence):
        check_plausible(name, bits, found)
    elif isinstance(found, Similarity):
        check_similar(name, bits, found)
    elif isinstance(found, Fidelity):
        check_faithful(name, bits, found)

"""The steps of a run. Each looks whether its artifact is there, makes it if not, and returns what later steps need."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter

from hubquant.backends.gguf.files import FilePlan
from hubquant.backends.gguf.writing import Mode, Stored, Target, Wanted, quantize_files
from hubquant.convert.conversion import stream
from hubquant.disk import write_at_once, writing
from hubquant.engine.progress import Progress
from hubquant.engine.store import Artifact, Workspace
from hubquant.gguf_file import shard_paths
from hubquant.imatrix import load_imatrix, save
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.given_imatrix import used
from hubquant.pipeline.importance import collect, finish, observe_source
from hubquant.pipeline.plan import Plan, describe
from hubquant.sources.source import SourceModel

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from hubquant.calibration import Chunks
    from hubquant.evaluate import Divergence
    from hubquant.imatrix import ImportanceMatrix
    from hubquant.llamacpp.runtime import RuntimeCheck

BASELINE = "baseline.h5"
SNAPSHOT = "snapshot"
RESULT = "result.json"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Work:
    """What every step is given: the plan, the source with its weights on disk, where artifacts are, whom to tell."""

    plan: Plan
    source: SourceModel
    workspace: Workspace
    progress: Progress

    def needs_weights(self) -> bool:
        made = self.plan.artifacts
        of_model = [artifact for artifact in (made.imatrix, made.baseline) if artifact]
        return not all(self.workspace.has(a) for a in (*of_model, *made.files.values(), *made.verifications.values()))

    def missing(self, artifacts: Mapping[str, Artifact]) -> list[FilePlan]:
        return [file for file in self.plan.files if not self.workspace.has(artifacts[file.ftype])]

    def keep_result(self, artifact: Artifact, adapter: TypeAdapter[Result], result: Result) -> None:
        """Complete an artifact that is one small value."""
        path = self.workspace.open_building(artifact) / RESULT
        write_at_once(path, json.dumps(adapter.dump_python(result), indent=1).encode())
        self.workspace.complete(artifact)

    def result(self, artifact: Artifact, adapter: TypeAdapter[Result]) -> Result:
        return adapter.validate_json((self.workspace.path(artifact) / RESULT).read_bytes())

    def forget(self, artifact: Artifact) -> None:
        """Remove an artifact with its hard links in the output folder, so that nothing damaged is published."""
        for path in self.workspace.path(artifact).glob("*.gguf"):
            for placed in (self.plan.output / path.name, *self.plan.output.glob(f"*/{path.name}")):
                with writing(placed):
                    if placed.exists() and placed.samefile(path):
                        placed.unlink()
        self.workspace.forget(artifact)

    def file_paths(self, file: FilePlan) -> list[Path]:
        """The finished shards of a file in its artifact."""
        folder = self.workspace.path(self.plan.artifacts.files[file.ftype])
        return shard_paths(folder / Path(file.name).name, file.n_shards)


def observe_model(work: Work) -> ImportanceMatrix | None:
    """Whatever needs the source model in memory: the importance matrix and the baseline. Returns the matrix to use."""
    from hubquant.observe import Keeping

    plan, workspace, settings = work.plan, work.workspace, work.plan.recipe.imatrix
    wanted = [a for a in (plan.artifacts.imatrix, plan.artifacts.baseline) if a and not workspace.has(a)]
    whole = plan.way == "none" or plan.artifacts.baseline in wanted
    model = work.source.load() if wanted and whole else None
    if plan.calibration is not None and plan.artifacts.imatrix is not None:
        _step(work, "imatrix", describe(plan.calibration), plan.artifacts.imatrix)
        if plan.way is not None and plan.artifacts.imatrix in wanted:
            folder = workspace.open_building(plan.artifacts.imatrix)
            observable = observe_source(work.source, plan.conversion)
            keeping = Keeping(folder / SNAPSHOT, plan.artifacts.imatrix.fingerprint)
            collection = collect(observable, plan.calibration, settings, plan.way, keeping, work.progress, model=model)
            save(finish(collection, observable, work.progress), folder / IMATRIX)
            keeping.path.unlink(missing_ok=True)
            workspace.complete(plan.artifacts.imatrix)
    if plan.evaluation is not None and plan.artifacts.baseline is not None:
        _step(work, "baseline", describe(plan.evaluation), plan.artifacts.baseline)
        if model is not None and plan.artifacts.baseline in wanted:
            folder = workspace.open_building(plan.artifacts.baseline)
            source, path = work.source, folder / BASELINE
            name, revision = source.full_name, source.exact_revision
            measure_baseline(model, name, revision, plan.evaluation, path, work.progress)
            workspace.complete(plan.artifacts.baseline)
    if plan.imatrix is not None:
        return used(plan.imatrix.matrix, plan.recipe.imatrix)
    if plan.artifacts.imatrix is None:
        return None
    collected = load_imatrix(workspace.path(plan.artifacts.imatrix) / IMATRIX)
    return used(collected.fit(plan.weights.shapes), plan.recipe.imatrix)


def quantize(work: Work, matrix: ImportanceMatrix | None) -> None:
    """Every missing file in one pass over the weights."""
    plan = work.plan
    missing = work.missing(plan.artifacts.files)
    detail = ", ".join(file.ftype for file in missing or plan.files)
    work.progress.step("quantize", detail, reused=not missing)
    if not missing:
        return
    targets = []
    for file in missing:
        folder = work.workspace.open_building(plan.artifacts.files[file.ftype])
        targets.append(Target(folder / Path(file.name).name, file.layouts, file.types))
    write_targets(
        targets,
        lambda wanted: stream(plan.conversion, work.source.checkpoint, wanted),
        matrix,
        plan.recipe.quantize.mode,
        work.progress,
        work.source.stored,
    )
    for file in missing:
        work.workspace.complete(plan.artifacts.files[file.ftype])


def measure_files(work: Work) -> tuple[dict[str, Divergence], dict[str, RuntimeCheck]]:
    """By file type: how far each file is from the source model, and whether llama.cpp can use it."""
    from hubquant.convert.restore import load_model
    from hubquant.devices import default_device
    from hubquant.evaluate import Baseline, Divergence, check_plausible, compare
    from hubquant.llamacpp.runtime import RuntimeCheck, runtime_check
    from hubquant.models.language_model import LanguageModel

    plan, made = work.plan, work.plan.artifacts
    divergences, runtimes = TypeAdapter(Divergence), TypeAdapter(RuntimeCheck)
    if made.baseline is None:
        return {}, {file.ftype: RuntimeCheck(skipped="nothing was evaluated") for file in plan.files}
    tokenizer = plan.source.tokenizer()
    with Baseline.open(work.workspace.path(made.baseline) / BASELINE) as baseline:
        for file in plan.files:
            evaluation, runtime = made.evaluations[file.ftype], made.runtimes[file.ftype]
            missing = [artifact for artifact in (evaluation, runtime) if not work.workspace.has(artifact)]
            work.progress.step("evaluate", file.ftype, reused=not missing)
            path = work.file_paths(file)[0]
            model = LanguageModel(load_model(path, default_device())) if missing else None
            if model is not None and evaluation in missing:
                snapshot = work.workspace.open_building(evaluation) / SNAPSHOT
                with work.progress.bar(file.ftype, baseline.n_chunks, "chunks") as advance:
                    divergence = compare(model, baseline, snapshot=snapshot, advance=advance)
                snapshot.unlink(missing_ok=True)
                work.keep_result(evaluation, divergences, divergence)
            check_plausible(path.name, file.types.values(), work.result(evaluation, divergences))
            if model is not None and runtime in missing:
                fork = f"only {file.fork}, a fork of llama.cpp, loads this file"
                check = (
                    RuntimeCheck(skipped=fork)
                    if file.fork
                    else runtime_check(
                        path,
                        tokenizer,
                        model,
                        without=plan.vocabulary.differing,
                        add_special=not plan.vocabulary.left_out,
                    )
                )
                work.keep_result(runtime, runtimes, check)
    return (
        {ftype: work.result(artifact, divergences) for ftype, artifact in made.evaluations.items()},
        {ftype: work.result(artifact, runtimes) for ftype, artifact in made.runtimes.items()},
    )


def measure_baseline(
    model: PreTrainedModel, name: str, revision: str, chunks: Chunks, path: Path, progress: Progress
) -> None:
    from hubquant.evaluate import write_baseline
    from hubquant.models.language_model import LanguageModel

    with progress.bar("baseline", len(chunks), "chunks") as advance:
        write_baseline(LanguageModel(model), chunks, path, name=name, revision=revision, advance=advance).close()


def write_targets(
    targets: Sequence[Target],
    tensors: Callable[[Wanted], Iterator[tuple[str, torch.Tensor]]],
    matrix: ImportanceMatrix | None,
    mode: Mode,
    progress: Progress,
    stored: Stored,
) -> None:
    total = sum(entry.nbytes for target in targets for layout in target.layouts for entry in layout.tensors.values())
    importance = matrix.importance if matrix is not None else lambda _: None
    with progress.bar("quantize", total, "B") as advance:
        quantize_files(targets, tensors, importance, mode, advance, stored)


def _step(work: Work, name: str, detail: str, artifact: Artifact) -> None:
    work.progress.step(name, detail, reused=work.workspace.has(artifact))

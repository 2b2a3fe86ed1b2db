"""From a recipe to a plan: every step, type and size, and every mistake, before the first byte of work.

Only metadata is read: the recipe, config and tokenizer files, safetensors headers, the sizes of things.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.files import (
    FilePlan,
    ImatrixFacts,
    Weights,
    assign_types,
    check_quantized,
    file_metadata,
    file_name,
    fork_note,
    idle_rules,
    plan_layouts,
)
from hubquant.convert.conversion import Conversion
from hubquant.engine.progress import Progress
from hubquant.engine.store import Artifact, Workspace
from hubquant.errors import ImatrixError, NotSupportedYet, RecipeError
from hubquant.gguf_file.metadata import string
from hubquant.mix import requires_imatrix, without_importance
from hubquant.observe import collected_names
from hubquant.pipeline.artifacts import Artifacts, plan_artifacts
from hubquant.pipeline.contents import IMATRIX, planned_names
from hubquant.pipeline.costs import check_disk, check_memory, collects, disk_bytes, peak_ram_bytes, runs_model
from hubquant.pipeline.given_imatrix import GivenImatrix, open_imatrix, use_notes, used_names
from hubquant.pipeline.importance import Way, choose_way, streaming_bytes
from hubquant.pipeline.output_folder import OutputFolder
from hubquant.quants import implemented, needs_importance
from hubquant.recipe.schema import Recipe
from hubquant.sources.open import open_source
from hubquant.sources.source import SourceModel
from hubquant.vocab.phi3 import fitting_name

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.llamacpp.vocabulary import VocabularyCheck

SHARD_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGT])(i?)B$", re.IGNORECASE)
COMPARED_CHARACTERS = 4_000_000  # of each source; more than a calibration run reads


@dataclass(frozen=True)
class Step:
    name: str
    detail: str
    done: bool = False


@dataclass(frozen=True)
class Plan:
    recipe: Recipe
    output: Path
    source: SourceModel
    conversion: Conversion
    vocabulary: VocabularyCheck
    weights: Weights
    way: Way | None
    imatrix: GivenImatrix | None
    facts: ImatrixFacts | None
    calibration: Chunks | None
    evaluation: Chunks | None
    files: Sequence[FilePlan]
    artifacts: Artifacts
    shard_bytes: int
    steps: Sequence[Step]
    peak_ram_bytes: int
    disk_bytes: int
    uploads: Sequence[str]
    notes: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.source.name,
            "revision": self.source.revision,
            "architecture": self.weights.architecture,
            "parameters": self.weights.n_parameters,
            "tokenizer": str(self.vocabulary),
            "steps": [{"name": s.name, "detail": s.detail, "done": s.done} for s in self.steps],
            "files": [
                {
                    "name": f.name,
                    "type": f.ftype,
                    "size": f.size,
                    "bpw": f.bpw,
                    "shards": f.n_shards,
                    "tensors": dict(f.types),
                }
                for f in self.files
            ],
            "peak_ram_bytes": self.peak_ram_bytes,
            "disk_bytes": self.disk_bytes,
            "download_bytes": self.source.download_bytes,
            "output": str(self.output),
            "uploads": list(self.uploads),
            "notes": list(self.notes),
        }


def make_plan(recipe: Recipe, output: Path | None, progress: Progress) -> Plan:
    """Raises a ``UserError`` for everything that would fail later and can be known now."""
    shard_bytes = parse_size(recipe.publish.shard_size, "publish.shard_size")
    if recipe.publish.to is not None:
        from hubquant.pipeline.push import place_to_publish

        to = place_to_publish(recipe.publish.to)
        recipe = recipe.model_copy(update={"publish": recipe.publish.model_copy(update={"to": to})})
    with progress.doing("reading what the model's files hold"):
        source = open_source(recipe.model, recipe.convert.pre_tokenizer)
    output = output or Path(f"{source.name}-GGUF")
    folder = OutputFolder(output)
    check_quantized(source, recipe.quantize)
    conversion = source.conversion()
    if conversion.cannot_run and runs_model(recipe):
        raise NotSupportedYet(
            f"calibrating or evaluating {conversion.architecture} models",
            why=conversion.cannot_run,
            hint="add --set imatrix.skip=true --set evaluate.skip=true",
        )
    weights = conversion_weights(source, conversion)
    with progress.doing("comparing the tokenizer with llama.cpp's"):
        vocabulary = check_tokenizer(source, weights)
    imatrix = open_imatrix(recipe.imatrix, weights) if recipe.imatrix.given else None
    with progress.doing("tokenizing"):
        calibration, evaluation = _tokenize(recipe, source)
    facts = imatrix.facts if imatrix else collected_facts(calibration, conversion, recipe) if calibration else None
    entries = _entries(imatrix, calibration, conversion, recipe)
    covered = used_names(entries, recipe.imatrix)
    files = [_plan_file(weights, source, recipe, ftype, facts, covered, shard_bytes) for ftype in recipe.quantize.types]
    notes = [note for note in (vocabulary.note, *conversion.notes) if note]
    notes += use_notes(len(entries), len(covered), recipe.imatrix)
    notes += idle_rules(weights, recipe.quantize)
    notes += [note for file in files for note in (*file.notes, *fork_note(file.ftype, file.types))]
    notes += _check_overlap(recipe) if calibration and evaluation else []
    artifacts = plan_artifacts(recipe, source, weights, imatrix, calibration, evaluation, files, shard_bytes)
    workspace = Workspace(output)
    names = planned_names(recipe, files, has_imatrix=facts is not None)
    folder.check(names, _sources(files, artifacts, workspace))
    names += [name for name in folder if name not in names]
    notes += _foreign_note(folder)
    way = choose_way(recipe.imatrix, weights.shapes, can_stream=source.can_stream) if calibration else None
    streams = way is not None and calibration is not None and way not in ("none", "cpu")
    streaming = streaming_bytes(weights.shapes, calibration.n_tokens) if streams and calibration else None
    peak = peak_ram_bytes(recipe, weights, streaming)
    disk = disk_bytes(recipe, weights, files, source.download_bytes)
    check_memory(peak)
    check_disk(disk, output)
    return Plan(
        recipe=recipe,
        output=output,
        source=source,
        conversion=conversion,
        vocabulary=vocabulary,
        weights=weights,
        way=way,
        imatrix=imatrix,
        facts=facts,
        calibration=calibration,
        evaluation=evaluation,
        files=files,
        artifacts=artifacts,
        shard_bytes=shard_bytes,
        steps=_steps(recipe, source, calibration, way, evaluation, artifacts, workspace, names),
        peak_ram_bytes=peak,
        disk_bytes=disk,
        uploads=names if recipe.publish.to else (),
        notes=notes,
    )


def conversion_weights(source: SourceModel, conversion: Conversion) -> Weights:
    """What the files hold: the source's tensors, and its metadata with ``general.*`` keys from the card."""
    shapes = conversion.shapes
    weights = Weights(
        conversion.architecture,
        conversion.hparams,
        {},
        shapes,
        conversion.float_type,
        conversion.quantized,
        source.stored_types,
    )
    general = source.general_metadata(weights.n_parameters)
    if "general.name" in general:
        name = fitting_name(str(general["general.name"].value), strips=conversion.strips_as_phi3)
        general["general.name"] = string(name)
    metadata = {"general.architecture": string(conversion.architecture), **general, **conversion.metadata}
    metadata.setdefault("hubquant.source_revision", string(source.revision))
    return replace(weights, metadata=metadata)


def check_tokenizer(source: SourceModel, weights: Weights) -> VocabularyCheck:
    """The vocabulary as the files will hold it, in llama.cpp. Raises ``TokenizerError`` when it gives other tokens."""
    from hubquant.llamacpp.vocabulary import check_vocabulary
    from hubquant.vocab import Vocabulary

    name = weights.metadata.get("general.name")
    return check_vocabulary(
        Vocabulary.from_metadata(weights.metadata),
        source.tokenizer(),
        name=str(name.value) if name else source.name,
    )


def parse_size(text: str, field: str) -> int:
    """Bytes of "45GiB" (binary) or "45GB" (decimal)."""
    match = SHARD_SIZE.match(text.strip())
    if not match or float(match[1]) <= 0:
        raise RecipeError(f"{field}: {text!r} is not a size", hint="write 45GiB or 500MB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** ("KMGT".index(match[2].upper()) + 1))


def _plan_file(
    weights: Weights,
    source: SourceModel,
    recipe: Recipe,
    ftype: str,
    facts: ImatrixFacts | None,
    covered: Collection[str],
    shard_bytes: int,
) -> FilePlan:
    assigned = assign_types(weights, ftype, recipe.quantize, has_imatrix=facts is not None)
    types, notes = settle_types(assigned, ftype, covered, where_from="leave imatrix.skip out")
    metadata = file_metadata(weights, ftype, types, recipe.quantize, source.identity["model"], facts)
    layouts = plan_layouts(weights, types, metadata, shard_bytes)
    return FilePlan(
        ftype=ftype,
        name=file_name(source.name, ftype, len(layouts)),
        types=types,
        n_parameters=weights.n_parameters,
        layouts=layouts,
        notes=notes,
    )


def _tokenize(recipe: Recipe, source: SourceModel) -> tuple[Chunks | None, Chunks | None]:
    """The calibration and the evaluation tokens; text that cannot be used raises."""
    from hubquant.calibration import build

    tokenizer = source.tokenizer()
    first, second = recipe.calibration, recipe.evaluate
    calibration = (
        build(first.sources, tokenizer, first.chunk_size, first.chunks, first.seed) if collects(recipe) else None
    )
    evaluation = None if second.skip else build(second.sources, tokenizer, second.chunk_size, second.chunks, 0)
    return calibration, evaluation


def collected_facts(chunks: Chunks, conversion: Conversion, recipe: Recipe) -> ImatrixFacts:
    """What a file will record of the matrix that is yet to be collected."""
    names = used_names(collected_names(conversion.taps, recipe.imatrix.process_output), recipe.imatrix)
    return ImatrixFacts(IMATRIX, chunks.datasets[0], len(names), len(chunks), chunks.fingerprint)


def _entries(
    imatrix: GivenImatrix | None, calibration: Chunks | None, conversion: Conversion, recipe: Recipe
) -> Collection[str]:
    """The tensors that the importance matrix has, or will have, entries of."""
    if imatrix is not None:
        return imatrix.matrix.entries.keys()
    return collected_names(conversion.taps, recipe.imatrix.process_output) if calibration else ()


def settle_types(
    types: Mapping[str, str], ftype: str, covered: Collection[str], *, where_from: str
) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """The types of a file, with others for weights whose types need data that an incomplete matrix lacks; and a note
    that names them. ``where_from`` says how to get a matrix where there is none.

    Raises ``NotSupportedYet`` for what no kernel can write, and ``ImatrixError`` when data is needed and there is none
    at all.
    """
    missing_kernel = sorted({type for type in types.values() if not implemented(type)})
    if missing_kernel:
        raise NotSupportedYet(
            f"files of type {ftype}",
            why=f"they hold {' and '.join(missing_kernel)} tensors, which hubquant cannot write",
            hint="choose among Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q3_K_M, Q2_K",
        )
    hungry = [
        name
        for name, type in types.items()
        if name not in covered and (requires_imatrix(name, type, ftype) or needs_importance(type))
    ]
    if hungry and not covered:
        raise ImatrixError(
            f"{ftype} needs an importance matrix",
            why=f"{hungry[0]} would be {types[hungry[0]]} and has no data ({len(hungry)} such tensors)",
            hint=f"{where_from}, or choose Q3_K_M",
        )
    if not hungry:
        return types, ()
    others = {name: without_importance(types[name]) for name in hungry}
    first = hungry[0]
    note = (
        f"{ftype}: the importance matrix has no data for {len(hungry)} weights whose types need it; "
        f"they get another type, {first} {others[first]} instead of {types[first]}"
    )
    return {**types, **others}, (note,)


def _check_overlap(recipe: Recipe) -> list[str]:
    """A note when the model is evaluated on text that it was calibrated on."""
    from hubquant.calibration import overlap, read_text

    seed = recipe.calibration.seed
    calibration = [read_text(source, seed, COMPARED_CHARACTERS) for source in recipe.calibration.sources]
    evaluation = [read_text(source, 0, COMPARED_CHARACTERS) for source in recipe.evaluate.sources]
    found = overlap(calibration, "\n".join(evaluation))
    if found.shared == 0:
        return []
    return [
        f"{found.share:.0%} of the evaluation text's lines also stand in the calibration text: "
        "the divergence looks better than it is"
    ]


def _sources(files: Sequence[FilePlan], artifacts: Artifacts, workspace: Workspace) -> dict[str, Path]:
    """Where the files of the output are in their artifacts, of which they are links."""
    folders = {file.ftype: workspace.path(artifacts.files[file.ftype]) for file in files}
    found = {path: folders[file.ftype] / Path(path).name for file in files for path in file.paths}
    if artifacts.imatrix is not None:
        found[IMATRIX] = workspace.path(artifacts.imatrix) / IMATRIX
    return found


def _foreign_note(folder: OutputFolder) -> list[str]:
    if not (foreign := folder.foreign()):
        return []
    return [f"{len(foreign)} files in {folder.root} are not hubquant's and are left alone: {', '.join(foreign[:3])}"]


def _steps(
    recipe: Recipe,
    source: SourceModel,
    calibration: Chunks | None,
    way: Way | None,
    evaluation: Chunks | None,
    artifacts: Artifacts,
    workspace: Workspace,
    names: Sequence[str],
) -> list[Step]:
    def done(made: Mapping[str, Artifact]) -> bool:
        return all(workspace.has(artifact) for artifact in made.values())

    types = ", ".join(recipe.quantize.types)
    steps = []
    if source.remote is not None:
        steps.append(Step("pull", f"{source.id} at {source.revision[:12]}", source.download_bytes == 0))
    if calibration is not None and artifacts.imatrix is not None:
        detail = describe(calibration) + ("" if way == "none" else f" (offload: {way})")
        steps.append(Step("imatrix", detail, workspace.has(artifacts.imatrix)))
    if evaluation is not None and artifacts.baseline is not None:
        steps.append(Step("baseline", describe(evaluation), workspace.has(artifacts.baseline)))
    steps.append(Step("quantize", types, done(artifacts.files)))
    steps.append(Step("verify", types, done(artifacts.verifications)))
    if evaluation is not None:
        steps.append(Step("evaluate", types, done(artifacts.evaluations)))
    steps.append(Step("card", "README.md, recipe.yaml" + (", plot.png" if evaluation is not None else "")))
    if recipe.publish.to is not None:
        steps.append(Step("push", f"{recipe.publish.to}: {', '.join(names)}"))
    return steps


def describe(chunks: Chunks) -> str:
    return f"{len(chunks)} chunks of {chunks.chunk_size} tokens from {', '.join(chunks.datasets)}"

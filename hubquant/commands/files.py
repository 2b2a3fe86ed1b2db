"""Single steps on files, without a recipe: what ``hubquant convert``, ``quantize`` and ``publish`` do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.files import (
    ImatrixFacts,
    Weights,
    assign_types,
    check_quantized,
    file_metadata,
    fork_note,
    idle_rules,
    plan_layouts,
)
from hubquant.backends.gguf.writing import Stored, Target, Wanted
from hubquant.commands.runnable import open_model
from hubquant.commands.targets import check_target
from hubquant.convert.conversion import Conversion, stream
from hubquant.disk import user_path, writing
from hubquant.engine.progress import Progress
from hubquant.engine.store import FOLDER, Workspace, fingerprint
from hubquant.errors import CheckpointError, OutputError, UserError
from hubquant.pipeline.contents import CARD
from hubquant.pipeline.given_imatrix import open_imatrix, use_notes, used, used_artifact
from hubquant.pipeline.output_folder import OutputFolder
from hubquant.pipeline.plan import check_tokenizer, conversion_weights, settle_types
from hubquant.pipeline.work import write_targets
from hubquant.recipe.references import GGUF
from hubquant.recipe.schema import Imatrix, Quantize, TextSource
from hubquant.sources.gguf import GGUFSource
from hubquant.sources.source import SourceModel

if TYPE_CHECKING:
    import torch

    from hubquant.hub.push import Pushed
    from hubquant.imatrix import ImportanceMatrix

IMATRIX_HINT = "add --imatrix FILE (hubquant imatrix collect MODEL -o FILE makes one)"
UNSHARDED = 1 << 62  # bytes


@dataclass(frozen=True)
class MadeFile:
    path: Path
    type: str
    size: int

    def as_dict(self) -> dict[str, Any]:
        return {"path": str(self.path), "type": self.type, "size": self.size}


@dataclass(frozen=True)
class Readable:
    """A model to quantize: what its files hold, and a stream of the tensors that are asked for."""

    name: str
    weights: Weights
    identity: Mapping[str, str]
    stream: Callable[[Wanted], Iterator[tuple[str, torch.Tensor]]]
    stored: Stored


def convert(model: str, out: Path, type: str | None, pre_tokenizer: str | None, progress: Progress) -> MadeFile:
    """``out`` is the file, or a folder that is there."""
    if not names_file(out) and not out.is_dir():
        raise UserError(f"{out} is no GGUF file", why="there is no such folder either", hint=f"write -o {out}.gguf")
    source, conversion = open_model(model, pre_tokenizer, progress)
    settings = Quantize(types=(type or conversion.float_type,))
    paths = _paths(out, source.name, settings.types)
    check_quantized(source, Quantize())
    readable = open_readable(source, conversion, progress)
    return _write(readable, settings, None, None, paths, progress)[0]


def quantize(
    model: str,
    settings: Quantize,
    imatrix: Imatrix,
    pre_tokenizer: str | None,
    out: Path,
    progress: Progress,
) -> list[MadeFile]:
    """Quantize a checkpoint or a GGUF file to every type of ``settings`` in one pass.

    ``out`` is the file if it ends with .gguf, and else a folder.
    """
    if names_file(out) and len(settings.types) > 1:
        raise UserError(
            f"{out} is one file, and {len(settings.types)} types are asked for", hint="write -o with a folder"
        )
    if out.exists() and not out.is_dir() and not names_file(out):
        raise OutputError(f"{out} is a file", why="its name does not end with .gguf", hint="write -o with a folder")
    source, conversion = open_model(model, pre_tokenizer, progress)
    paths = _paths(out, source.name, settings.types)
    check_quantized(source, settings)
    readable = open_readable(source, conversion, progress)
    matrix, facts = None, None
    if imatrix.given:
        given = open_imatrix(imatrix, readable.weights)
        matrix, facts = used(given.matrix, imatrix), given.facts
        for note in use_notes(len(given.matrix.entries), len(matrix.entries), imatrix):
            progress.note(note)
        # what an earlier call left is gone on with only if it was made with the same matrix
        identity = {**readable.identity, "imatrix": used_artifact(given.artifact, imatrix).fingerprint}
        readable = replace(readable, identity=identity)
    return _write(readable, settings, matrix, facts, paths, progress)


def names_file(out: Path) -> bool:
    return out.name.lower().endswith(GGUF) and not out.is_dir()


def _paths(out: Path, name: str, types: Sequence[str]) -> dict[str, Path]:
    """Where the file of each type goes. Raises ``OutputError`` where something else is in its place."""
    named = names_file(out)
    paths = {ftype: out if named else out / f"{name}-{ftype}.gguf" for ftype in types}
    for path in paths.values():
        check_target(path, "model")
    return paths


def publish(folder: Path, to: str, private: bool, progress: Progress) -> Pushed:
    """Upload a finished folder of a run. Raises ``UserError`` for any other folder."""
    from hubquant.pipeline.push import place_to_publish, push_folder

    made = finished_folder(folder)
    place = place_to_publish(to)
    with Workspace(folder).locked():
        return push_folder(made, place, private, progress)


def finished_folder(folder: Path) -> OutputFolder:
    """The folder of a run. Raises ``UserError`` for any other."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}", hint=f"make it first: hubquant run MODEL --out {folder}")
    if not (folder / FOLDER).is_dir():
        raise UserError(
            f"hubquant did not make {folder}",
            why="only what `hubquant run` made and checked is published",
            hint="hubquant run MODEL --push REPO",
        )
    made = OutputFolder(folder)
    if CARD not in made:
        raise UserError(
            f"there is nothing to publish in {folder}",
            why="no run has finished there",
            hint=f"run it to its end first: hubquant run MODEL --out {folder}",
        )
    return made


def open_readable(source: SourceModel, conversion: Conversion, progress: Progress) -> Readable:
    """The source with its weights on disk, once a vocabulary that was converted has proved itself in llama.cpp."""
    weights = conversion_weights(source, conversion)
    note = None
    if not isinstance(source, GGUFSource):
        with progress.doing("comparing the tokenizer with llama.cpp's"):
            note = check_tokenizer(source, weights).note
    for text in filter(None, (note, *conversion.notes)):
        progress.note(text)
    source = source.download(progress)
    return Readable(
        source.name,
        weights,
        source.identity,
        lambda wanted: stream(conversion, source.checkpoint, wanted),
        source.stored,
    )


def text_sources(texts: Sequence[str], default: tuple[TextSource, ...]) -> tuple[TextSource, ...]:
    """An existing file or folder, or else a Hub dataset."""
    return (
        tuple(
            TextSource(file=text) if os.path.exists(user_path(text)) or "/" not in text else TextSource(dataset=text)
            for text in texts
        )
        or default
    )


def _write(
    readable: Readable,
    settings: Quantize,
    matrix: ImportanceMatrix | None,
    facts: ImatrixFacts | None,
    paths: Mapping[str, Path],
    progress: Progress,
) -> list[MadeFile]:
    targets = []
    for ftype, path in paths.items():
        assigned = assign_types(readable.weights, ftype, settings, has_imatrix=matrix is not None)
        types, notes = settle_types(assigned, ftype, matrix.entries.keys() if matrix else (), where_from=IMATRIX_HINT)
        for note in (*notes, *fork_note(ftype, types)):
            progress.note(note)
        metadata = file_metadata(readable.weights, ftype, types, settings, readable.identity["model"], facts)
        targets.append(
            Target(_hidden(path, readable.identity), plan_layouts(readable.weights, types, metadata, UNSHARDED), types)
        )
    for note in idle_rules(readable.weights, settings):
        progress.note(note)
    try:
        write_targets(targets, readable.stream, matrix, settings.mode, progress, readable.stored)
    except CheckpointError:  # the model itself is at fault: going on would end here again
        for target in targets:
            for suffix in ("", ".partial", ".partial.journal"):
                target.path.with_name(target.path.name + suffix).unlink(missing_ok=True)
        raise
    for target, path in zip(targets, paths.values(), strict=True):
        target.path.replace(path)
    return [MadeFile(path, ftype, path.stat().st_size) for ftype, path in paths.items()]


def _hidden(path: Path, identity: Mapping[str, str]) -> Path:
    """Where ``path`` is built: a name that tells the source apart, so that only the same work is resumed."""
    name = f".{path.name}.{fingerprint(dict(identity))[:12]}"
    leftover = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}(\.partial(\.journal(\.new)?)?)?")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for found in path.parent.iterdir():
            if leftover.fullmatch(found.name) and not found.name.startswith(name) and found.is_file():
                found.unlink()
    return path.with_name(name)

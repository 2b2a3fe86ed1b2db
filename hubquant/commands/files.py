"""``hubquant convert`` and ``hubquant quantize``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hubquant.backends.gguf.backend import GGUF
from hubquant.backends.gguf.files import FilePlan, file_metadata
from hubquant.commands.adapter import adapter_type, convert_adapter
from hubquant.commands.flags import fill
from hubquant.commands.job import Job, MadeFile, plan_job, put
from hubquant.commands.targets import check_target
from hubquant.disk import write_at_once
from hubquant.engine.progress import Progress
from hubquant.engine.store import Store
from hubquant.engine.task import Context, Task
from hubquant.errors import AdapterError, OutputError, UserError
from hubquant.gguf_file import Metadata, Split, plan_layout, shard_paths
from hubquant.pipeline.prepare import prepare
from hubquant.pipeline.work import Work, open_model
from hubquant.recipe.references import GGUF_SUFFIX
from hubquant.recipe.schema import Convert, Evaluate, Imatrix, ModelReference, Quantize, Recipe
from hubquant.sources.adapter import Adapter, open_adapter
from hubquant.sources.component import Component
from hubquant.sources.projector import MMPROJ
from hubquant.sources.source import SourceModel

IMATRIX_HINT = "add --imatrix FILE (hubquant imatrix collect MODEL -o FILE makes one)"
FILE_NAME = "{model}-{type}"
NOT_SPLIT = Split()
VOCAB = "vocab"


@dataclass(frozen=True)
class Placing:
    """Where files go: ``out`` is a .gguf file or a folder, in which ``name`` with {model} and {type} names each file;
    ``split`` cuts them into shards, those of the source with ``keep_split``."""

    out: Path
    name: str | None = None
    split: Split = NOT_SPLIT
    keep_split: bool = False

    @property
    def is_file(self) -> bool:
        return self.out.name.lower().endswith(GGUF_SUFFIX) and not self.out.is_dir()

    def split_of(self, source: SourceModel) -> Split:
        """Raises ``UserError`` where there are no shards to keep."""
        if not self.keep_split:
            return self.split
        if source.shards is None:
            raise UserError(
                "there are no shards to keep", why="the source is no GGUF file", hint="write --split-max-size 5G"
            )
        return Split(shards=source.shards)

    def for_type(self, type: str) -> Placing:
        """With ``type`` for {ftype} and {FTYPE}."""
        out = str(self.out)
        for name, text in {"ftype": type.lower(), "outtype": type.lower(), "FTYPE": type, "OUTTYPE": type}.items():
            out = out.replace(f"{{{name}}}", text)
        return replace(self, out=Path(out))

    def path(self, model: str, type: str) -> Path:
        """Of the unsharded file."""
        if self.is_file:
            return self.out
        name = fill(self.name or FILE_NAME, "--name", model=model, type=type)
        return self.out / (name if name.lower().endswith(GGUF_SUFFIX) else f"{name}{GGUF_SUFFIX}")


@dataclass(frozen=True)
class Converting:
    """One file of ``type``, by default as the source is, or with ``vocab_only`` one without tensors. ``authorship`` is
    keys that stand in the place of the source's. ``base`` is the folder or Hub id of the model that an adapter changes,
    by default the one that it names. With ``mmproj`` it is what a multimodal model sees or hears with, not the
    model."""

    type: str | None = None
    how: Convert = field(default_factory=Convert)
    authorship: Metadata = field(default_factory=dict)
    vocab_only: bool = False
    base: str | None = None
    mmproj: bool = False


def convert(
    model: ModelReference, wanted: Converting, placing: Placing, store: Store, progress: Progress
) -> Job[list[MadeFile]]:
    """{ftype} and {FTYPE} in the name of a file stand for its type."""
    if wanted.mmproj:
        if model.component is not None:
            raise UserError(f"{model.component} is another part of the model", hint="leave --component or --mmproj out")
        model = model.model_copy(update={"component": MMPROJ})
    if wanted.vocab_only and placing.split != NOT_SPLIT:
        raise UserError("a vocabulary cannot be split", why="it has no tensors", hint="leave --split-max-… out")
    if not placing.is_file and not (out := placing.out).is_dir():
        raise UserError(
            f"{out} is no GGUF file",
            why="there is no such folder either",
            hint=f"write -o {out}.gguf, or make the folder",
        )
    try:
        component = open_model(model, wanted.how, progress)
    except AdapterError:
        if model.merge:  # its base is one
            raise
        return _adapter(open_adapter(model), wanted, placing, store, progress)
    if wanted.base:
        raise UserError(
            f"{component.source.name} is a model, not an adapter",
            why="--base names what an adapter changes",
            hint="leave --base out",
        )
    type = wanted.type or component.conversion.float_type
    placing, settings = placing.for_type(type), Quantize(types=(type,))
    if wanted.vocab_only and not component.has_vocabulary:
        raise UserError(f"{component.source.name} has no vocabulary", hint="leave --vocab-only out")
    if wanted.vocab_only:
        return _vocabulary(component, settings, wanted, placing, store, progress)
    recipe = _recipe(model, settings, Imatrix(skip=True), wanted.how)
    return _files([(recipe, component)], placing, store, progress, wanted.authorship)


def _adapter(
    adapter: Adapter, wanted: Converting, placing: Placing, store: Store, progress: Progress
) -> Job[list[MadeFile]]:
    if wanted.vocab_only or placing.split != NOT_SPLIT:
        raise UserError(
            f"{adapter.name} is an adapter",
            why="it has no vocabulary, and is one file",
            hint="leave --vocab-only and --split-max-… out",
        )
    type = adapter_type(wanted.type)
    path = placing.for_type(type).path(adapter.name, type)
    return convert_adapter(adapter, wanted.base, type, path, wanted.authorship, store, progress)


def _vocabulary(
    component: Component,
    settings: Quantize,
    wanted: Converting,
    placing: Placing,
    store: Store,
    progress: Progress,
) -> Job[list[MadeFile]]:
    path = placing.path(component.source.name, VOCAB)
    check_target(path, "model")
    checked = GGUF(NOT_SPLIT, IMATRIX_HINT, compares=False, authorship=wanted.authorship).check(
        component, settings, progress
    )
    metadata = file_metadata(checked.weights, settings.names[0], {}, settings, "", None)
    layout = plan_layout(metadata, ())

    def deliver(context: Context) -> list[MadeFile]:  # noqa: ARG001
        write_at_once(path, layout.header)
        return [MadeFile(path, VOCAB, layout.size)]

    return plan_job([], deliver, store, outputs=[path], placed_bytes=layout.size, notes=checked.notes)


def quantize(
    models: Sequence[ModelReference],
    settings: Quantize,
    imatrix: Imatrix,
    how: Convert,
    placing: Placing,
    store: Store,
    progress: Progress,
) -> Job[list[MadeFile]]:
    """A checkpoint or a GGUF file in every type of ``settings``, in one pass; or each of several ``models``, which are
    components of one pipeline."""
    check_placing(placing, settings, len(models))
    matrix = imatrix if imatrix.given else Imatrix(skip=True)
    wanted = [(_recipe(model, settings, matrix, how), open_model(model, how, progress)) for model in models]
    return _files(wanted, placing, store, progress)


def check_placing(placing: Placing, settings: Quantize, n_models: int = 1) -> None:
    """Raises ``UserError`` for files that would lie in each other's place, or where none can be."""
    out, several = placing.out, len(settings.types) > 1
    if placing.is_file and n_models > 1:
        raise UserError(f"{out} is one file, and {n_models} components are asked for", hint="write -o with a folder")
    if not placing.is_file and n_models > 1 and placing.path("A", "T") == placing.path("B", "T"):
        raise UserError(
            f"--name {placing.name} is the same for every component",
            hint="write {model} in it: --name '{model}-{type}'",
        )
    if placing.is_file and placing.name:
        raise UserError("--name and the name of a file contradict each other", hint="write -o with a folder")
    if placing.is_file and several:
        raise UserError(
            f"{out} is one file, and {len(settings.types)} types are asked for", hint="write -o with a folder"
        )
    if out.exists() and not out.is_dir() and not placing.is_file:
        raise OutputError(f"{out} is a file", why="its name does not end with .gguf", hint="write -o with a folder")
    if not placing.is_file and several and placing.path("", "A") == placing.path("", "B"):
        raise UserError(
            f"--name {placing.name} is the same for every type", hint="write {type} in it: --name '{model}-{type}'"
        )


def _recipe(model: ModelReference, settings: Quantize, imatrix: Imatrix, how: Convert) -> Recipe:
    return Recipe(
        model=model,
        convert=how,
        imatrix=imatrix,
        quantize=settings,
        evaluate=Evaluate(skip=True),
    )


@dataclass(frozen=True)
class _Placed:
    """What is made of one model; by a file's label, ``paths`` has that of the unsharded file, and ``shards`` those of
    its shards."""

    work: Work
    paths: Mapping[str, Path]
    shards: Mapping[str, Sequence[Path]]

    @property
    def goals(self) -> list[Task[Any]]:
        return [task for each in self.work.tasks.files for task in (each.file, each.verification)]

    @property
    def outputs(self) -> list[Path]:
        return [path for of_file in self.shards.values() for path in of_file]

    @property
    def files(self) -> list[FilePlan]:
        """By the names that they get."""
        return [replace(file, name=self.paths[file.label].name) for file in self.work.files]

    def put(self, context: Context) -> list[MadeFile]:
        for each in self.work.tasks.files:
            made = each.file.paths(context.store.path(each.file))
            for path, target in zip(made, self.shards[each.plan.label], strict=True):
                put(path, target, context.store)
        return [MadeFile(self.shards[file.label][0], file.label, file.size, file.n_shards) for file in self.work.files]


def _files(
    wanted: Sequence[tuple[Recipe, Component]],
    placing: Placing,
    store: Store,
    progress: Progress,
    authorship: Metadata | None = None,
) -> Job[list[MadeFile]]:
    placed = [_placed(recipe, component, placing, store, progress, authorship) for recipe, component in wanted]
    return plan_job(
        [task for each in placed for task in each.goals],
        lambda context: [made for each in placed for made in each.put(context)],
        store,
        outputs=[path for each in placed for path in each.outputs],
        placed_bytes=sum(file.size for each in placed for file in each.files),
        notes=list(dict.fromkeys(note for each in placed for note in each.work.notes)),
        files=[file for each in placed for file in each.files],
    )


def _placed(
    recipe: Recipe,
    component: Component,
    placing: Placing,
    store: Store,
    progress: Progress,
    authorship: Metadata | None,
) -> _Placed:
    source = component.source
    paths = {name: placing.path(source.name, name) for name in recipe.quantize.names}
    backend = GGUF(placing.split_of(source), IMATRIX_HINT, compares=False, authorship=authorship or {})
    for path in paths.values():
        check_target(path, "model")
    work = prepare(recipe, component, backend, store, progress)
    shards = {file.label: shard_paths(paths[file.label], file.n_shards) for file in work.files}
    for path in (path for of_file in shards.values() for path in of_file):
        check_target(path, "model")
    return _Placed(work, paths, shards)

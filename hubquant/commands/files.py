"""``hubquant convert`` and ``hubquant quantize``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubquant.backends.gguf.backend import GGUF
from hubquant.commands.flags import model as reference
from hubquant.commands.job import Job, plan_job, put
from hubquant.commands.targets import check_target
from hubquant.engine.progress import Progress
from hubquant.engine.store import Store
from hubquant.engine.task import Context
from hubquant.errors import OutputError, UserError
from hubquant.pipeline.work import open_model, prepare
from hubquant.recipe.references import GGUF_SUFFIX
from hubquant.recipe.schema import Convert, Evaluate, Imatrix, Quantize, Recipe
from hubquant.sources.component import Component

IMATRIX_HINT = "add --imatrix FILE (hubquant imatrix collect MODEL -o FILE makes one)"
UNSHARDED = 1 << 62  # bytes


@dataclass(frozen=True)
class MadeFile:
    path: Path
    type: str
    size: int

    def as_dict(self) -> dict[str, Any]:
        return {"path": str(self.path), "type": self.type, "size": self.size}


def convert(
    model: str, out: Path, type: str | None, pre_tokenizer: str | None, store: Store, progress: Progress
) -> Job[list[MadeFile]]:
    """One file of floats or of Q8_0; ``out`` is the file, or a folder that is there."""
    if not _names_file(out) and not out.is_dir():
        raise UserError(f"{out} is no GGUF file", why="there is no such folder either", hint=f"write -o {out}.gguf")
    component = open_model(reference(model), pre_tokenizer, progress)
    settings = Quantize(types=(type or component.conversion.float_type,))
    recipe = _recipe(model, settings, Imatrix(skip=True), pre_tokenizer)
    return _files(recipe, component, out, store, progress)


def quantize(
    model: str,
    settings: Quantize,
    imatrix: Imatrix,
    pre_tokenizer: str | None,
    out: Path,
    store: Store,
    progress: Progress,
) -> Job[list[MadeFile]]:
    """A checkpoint or a GGUF file in every type of ``settings``, in one pass.

    ``out`` is the file if it ends with .gguf, and else a folder.
    """
    if _names_file(out) and len(settings.types) > 1:
        raise UserError(
            f"{out} is one file, and {len(settings.types)} types are asked for", hint="write -o with a folder"
        )
    if out.exists() and not out.is_dir() and not _names_file(out):
        raise OutputError(f"{out} is a file", why="its name does not end with .gguf", hint="write -o with a folder")
    component = open_model(reference(model), pre_tokenizer, progress)
    recipe = _recipe(model, settings, imatrix if imatrix.given else Imatrix(skip=True), pre_tokenizer)
    return _files(recipe, component, out, store, progress)


def _recipe(model: str, settings: Quantize, imatrix: Imatrix, pre_tokenizer: str | None) -> Recipe:
    return Recipe(
        model=reference(model),
        convert=Convert(pre_tokenizer=pre_tokenizer),
        imatrix=imatrix,
        quantize=settings,
        evaluate=Evaluate(skip=True),
    )


def _files(recipe: Recipe, component: Component, out: Path, store: Store, progress: Progress) -> Job[list[MadeFile]]:
    paths = _paths(out, component.source.name, recipe.quantize.names)
    work = prepare(recipe, component, GGUF(UNSHARDED, IMATRIX_HINT, compares=False), progress)

    def deliver(context: Context) -> list[MadeFile]:
        for each in work.tasks.files:
            put(context.read(each.file), paths[each.plan.label], store)
        return [MadeFile(paths[file.label], file.label, file.size) for file in work.files]

    return plan_job(
        [task for each in work.tasks.files for task in (each.file, each.verification)],
        deliver,
        store,
        outputs=list(paths.values()),
        placed_bytes=sum(file.size for file in work.files),
        notes=work.notes,
    )


def _names_file(out: Path) -> bool:
    return out.name.lower().endswith(GGUF_SUFFIX) and not out.is_dir()


def _paths(out: Path, name: str, types: Sequence[str]) -> Mapping[str, Path]:
    """Where the file of each type goes. Raises ``OutputError`` where something else is in its place."""
    named = _names_file(out)
    paths = {ftype: out if named else out / f"{name}-{ftype}.gguf" for ftype in types}
    for path in paths.values():
        check_target(path, "model")
    return paths

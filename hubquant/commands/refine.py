"""``hubquant refine``: the importance matrix that is worth its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.backend import GGUF
from hubquant.commands.files import NOT_SPLIT
from hubquant.commands.job import Job, plan_job, put
from hubquant.commands.targets import check_target
from hubquant.devices import Device
from hubquant.disk import user_path, write_at_once
from hubquant.engine.progress import Progress
from hubquant.engine.store import Store
from hubquant.engine.task import Context
from hubquant.errors import CalibrationError, UserError
from hubquant.observe.collector import BATCH_TOKENS
from hubquant.pipeline.baseline import BaselineTask
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.held import LoadedModel
from hubquant.pipeline.ladder import Builder, Ladder, tasks_of
from hubquant.pipeline.offload import choose_offload, choose_way
from hubquant.pipeline.refine import Climb, Step, climb
from hubquant.pipeline.streamed import LastBlock
from hubquant.pipeline.tuning import TUNED, tuned_batch
from hubquant.pipeline.work import open_model
from hubquant.publish.growth import Point, growth_table, plot_growth
from hubquant.publish.table import plain
from hubquant.recipe.rewrite import check_beside, name_matrix
from hubquant.recipe.schema import Calibration, Recipe, name_of
from hubquant.units import counted

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.sources.component import Component

LEAST_CHUNKS = 8  # of the first size, where none is given
MOST_SIZES = 8


@dataclass(frozen=True)
class Request:
    """``path`` is where the recipe stands on this machine, if it does. ``sizes`` are tokens; without them each is
    ``factor`` times the one before, up to the recipe's own number of chunks. ``mixes`` are the calibrations to race, by
    name."""

    recipe: Recipe
    path: Path | None
    type: str
    sizes: tuple[int, ...] = ()
    factor: float = 2.0
    mixes: Mapping[str, Calibration] = field(default_factory=dict)
    out: Path | None = None
    plot: Path | None = None
    device: Device = "auto"


@dataclass(frozen=True)
class Refined:
    """``imatrix`` and ``recipe`` are the files that were written."""

    climb: Climb
    imatrix: Path
    recipe: Path

    def as_dict(self) -> dict[str, Any]:
        return {
            "steps": [asdict(step) for step in self.climb.steps],
            "best": asdict(self.climb.best),
            "confidence": self.climb.confidence,
            "settled": self.climb.settled,
            "over_none": None if self.climb.over_none is None else asdict(self.climb.over_none),
            "imatrix": str(self.imatrix),
            "recipe": str(self.recipe),
        }

    def __str__(self) -> str:
        climb = self.climb
        last = max(step.tokens for step in climb.steps)
        end = (
            f"The gain of {last:,} tokens lies within its {climb.confidence:.0%} interval: more text is not worth it."
            if climb.settled
            else f"It still got better at {last:,} tokens, the last size: more text may be worth it."
        )
        if climb.over_none and not climb.over_none.is_sure:
            end += "\nOn this test no matrix is surely better than none: a larger evaluate.chunks may tell."
        return (
            f"{plain(growth_table(_points(climb)))}\n{end}\n"
            f"the best matrix is {self.imatrix}\nthe recipe that uses it is {self.recipe}\n"
        )


def refine(request: Request, store: Store, progress: Progress) -> Job[Refined]:
    """Raises a ``UserError`` for everything that would fail later and can be known now."""
    recipe = _collecting(request.recipe)
    component = open_model(recipe.model, recipe.convert, progress)
    component.check_predicts("calibrating and evaluating")
    entry = next((e for e in recipe.quantize.types if name_of(e) == request.type), request.type)
    # Matrices are compared without feedback, which takes long and makes up for much of what a matrix misses.
    settings = recipe.quantize.model_copy(update={"types": (entry,), "rounding": "nearest"})
    checked = GGUF(NOT_SPLIT, "use another type", compares=False).check(component, settings, progress)
    matrix, beside = _targets(request, component.source.name)
    mixes = {name: mix.sources for name, mix in request.mixes.items()} or {"": recipe.calibration.sources}
    with progress.doing("tokenizing"):
        test, pools, sizes, notes = _texts(request, recipe, component, list(mixes.values()))
    offload = choose_offload(recipe.imatrix, component, request.device)
    tuned = None
    if offload == "none":
        tuned = tuned_batch(component, recipe.calibration.chunk_size, request.device, store)
    baseline: BaselineTask | LastBlock
    if choose_way(recipe.evaluate.way, component, request.device) == "streamed":
        baseline = LastBlock(component, test, request.device)
    else:
        loaded = LoadedModel.by(component.pulled, recipe.imatrix, offload, request.device)
        baseline = BaselineTask(component, test, loaded)
    builder = Builder(checked, recipe.imatrix, offload, baseline, request.device, tuned or BATCH_TOKENS)
    ladder = builder.ladder(dict(zip(mixes, pools, strict=True)), sizes)

    def deliver(context: Context) -> Refined:
        with context.store.using(tasks_of(ladder)):
            found = climb(ladder, recipe.evaluate.confidence, context)
            if found.rung.imatrix is None:
                raise RuntimeError("a climb ends with a matrix")
            put(context.store.path(found.rung.imatrix) / IMATRIX, matrix, store)
        if request.plot:
            title = f"{component.source.name} {request.type}: score and calibration text"
            write_at_once(request.plot, plot_growth(_points(found), title))
        return Refined(found, matrix, name_matrix(request.path, request.recipe, str(matrix), beside))

    outputs = [matrix, *([request.plot] if request.plot else [])]
    job = plan_job(
        tasks_of(ladder),
        deliver,
        store,
        outputs=outputs,
        placed_bytes=_matrix_bytes(ladder),
        notes=[*checked.notes, *notes, *([TUNED.format(tuned)] if tuned else [])],
    )
    return replace(job, goals=[])


def _collecting(recipe: Recipe) -> Recipe:
    """The recipe without a matrix that is there already, be it from an earlier refinement."""
    settings = recipe.imatrix.model_copy(update={"file": None, "files": (), "skip": False})
    return recipe.model_copy(update={"imatrix": settings})


def _targets(request: Request, model: str) -> tuple[Path, Path]:
    """Where the matrix goes, and the recipe where it cannot be the user's own."""
    stem = request.path.with_suffix("") if request.path else Path(model)
    matrix = request.out or stem.with_name(f"{stem.name}-imatrix.gguf")
    beside = (stem if request.path else matrix.with_name(model)).with_name(f"{stem.name}-refined.yaml")
    check_target(matrix, "imatrix")
    check_beside(beside)
    if request.plot:
        check_target(request.plot, "picture")
    return matrix, beside


def _texts(
    request: Request, recipe: Recipe, component: Component, mixes: Sequence[Any]
) -> tuple[Chunks, tuple[Chunks, ...], list[int], list[str]]:
    """The test, the pools, the sizes in chunks, and what is to be told of them."""
    from hubquant.calibration import build
    from hubquant.calibration.pools import divide

    tokenizer, size = component.source.tokenizer(), recipe.calibration.chunk_size
    wanted = _sizes(request, recipe.calibration)
    own_test = "sources" in recipe.evaluate.model_fields_set
    n_test = 0 if own_test else recipe.evaluate.chunks
    divided = divide(mixes, tokenizer, size, n_test, wanted[-1], recipe.calibration.seed)
    test = divided.test or build(
        recipe.evaluate.sources, tokenizer, recipe.evaluate.chunk_size, recipe.evaluate.chunks, 0
    )
    most = min(map(len, divided.pools))
    if most < wanted[0] or len(test) < 2:
        raise CalibrationError(
            "there is too little text to refine on",
            why=f"{counted(len(test), 'chunk is', 'chunks are')} for the test and {most} for the matrix, "
            f"of {size} tokens",
            hint=f"use more text, or smaller --sizes (the smallest is {wanted[0] * size:,} tokens)",
        )
    notes = [f"the test is {counted(len(test), 'chunk')} of {test.chunk_size} tokens"]
    if most < wanted[-1]:
        notes.append(f"the text has {most * size:,} tokens for the matrix: that is the last size")
    return test, divided.pools, sorted({min(n, most) for n in wanted}), notes


def _sizes(request: Request, calibration: Calibration) -> list[int]:
    """In chunks, growing."""
    if request.sizes:
        return sorted({max(1, round(tokens / calibration.chunk_size)) for tokens in request.sizes})
    found = [calibration.chunks]
    while len(found) < MOST_SIZES and (smaller := round(found[-1] / request.factor)) >= LEAST_CHUNKS:
        found.append(smaller)
    return sorted(set(found))


def _matrix_bytes(ladder: Ladder) -> int:
    return max(rung.imatrix.cost.disk_bytes for rung in ladder if rung.imatrix)


def _points(climb: Climb) -> list[Point]:
    return [
        Point(
            step.mix,
            step.tokens,
            step.kld,
            step.kld_error or 0.0,
            step.composite,
            step.composite_error or 0.0,
            None if step.gain is None else (step.gain.value, step.gain.half_width),
            _note(step, climb),
        )
        for step in climb.steps
    ]


def _note(step: Step, climb: Climb) -> str:
    if step == climb.best:
        return "best"
    if step.dropped and step.behind:
        return f"dropped: {step.behind.value:.5f} ± {step.behind.half_width:.5f} behind"
    return ""


def own_path(reference: str | Path) -> Path | None:
    """Where the recipe stands on this machine, if it is a file."""
    return user_path(str(reference)) if str(reference).endswith((".yaml", ".yml")) else None


def parse_tokens(text: str) -> tuple[int, ...]:
    """Of "25k,50k,1M", which are 25 000, 50 000 and 10⁶ tokens. Raises ``UserError``."""
    scales = {"k": 1_000, "m": 1_000_000}
    found = []
    for part in (part.strip().lower() for part in text.split(",")):
        number, scale = (part[:-1], scales[part[-1]]) if part[-1:] in scales else (part, 1)
        try:
            tokens = float(number) * scale
        except ValueError:
            tokens = 0
        if not 1 <= tokens <= 1e12:
            raise UserError(f"--sizes: {part!r} is no number of tokens", hint="write --sizes 25k,50k,100k")
        found.append(int(tokens))
    return tuple(found)


def read_mix(path: Path) -> Calibration:
    """The ``calibration`` of a recipe, or of a file that has its fields alone. Raises ``RecipeError``."""
    from hubquant.recipe.load import parse_recipe, read_yaml

    data = read_yaml(path)
    part = data.get("calibration", data) if isinstance(data, dict) else data
    return parse_recipe({"model": {"bundled": "demo"}, "calibration": part}, str(path)).calibration

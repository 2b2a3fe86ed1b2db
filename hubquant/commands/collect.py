"""``hubquant imatrix collect``: a matrix of one model, without a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from hubquant.backends.gguf.backend import GGUF
from hubquant.commands.collect_drawn import Drawing, collect_drawn
from hubquant.commands.flags import Text
from hubquant.commands.flags import model as reference
from hubquant.commands.job import Job, plan_job, put
from hubquant.commands.targets import check_target
from hubquant.devices import Device
from hubquant.engine.progress import Progress
from hubquant.engine.store import Store
from hubquant.engine.task import Context
from hubquant.errors import UserError
from hubquant.gguf_file import Split
from hubquant.imatrix import CALIBRATION, ImportanceMatrix, lost_in_dat, merge, save
from hubquant.imatrix.files import DAT
from hubquant.observe.collector import BATCH_TOKENS, batch_chunks
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.encoders import check_collects, context_notes
from hubquant.pipeline.given_imatrix import imatrix_path, read_sum
from hubquant.pipeline.importance import CollectedImatrix, Saving
from hubquant.pipeline.offload import choose_offload
from hubquant.pipeline.tuning import TUNED, tuned_batch
from hubquant.pipeline.without_code import NOTE, ImatrixInLlamaCpp, check_ways, floats_of, how_to_run, runs_in_llamacpp
from hubquant.pipeline.work import open_model
from hubquant.recipe.schema import Convert, Imatrix
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from hubquant.calibration import Chunks

_FLOATS = GGUF(Split(), "", compares=True)


@dataclass(frozen=True)
class Request:
    """``shard`` is (i, n), counted from 1; ``saving`` says where the matrix goes, also before its end. ``in_files`` are
    added to it. A diffusion model draws ``drawing``; ``reads_text`` tells
    whether a text was asked for, which it cannot read."""

    model: str
    text: Text
    saving: Saving
    pre_tokenizer: str | None = None
    shard: tuple[int, int] | None = None
    perplexity: bool = True
    settings: Imatrix = field(default_factory=Imatrix)
    device: Device = "auto"
    batch_tokens: int | None = None
    in_files: tuple[str, ...] = ()
    reads_text: bool = False
    drawing: Drawing | None = None


def collect(request: Request, store: Store, progress: Progress) -> Job[ImportanceMatrix]:
    """Raises ``UserError`` before any weight is read."""
    out = request.saving.out
    check_target(out, "imatrix")
    component = open_model(reference(request.model), Convert(pre_tokenizer=request.pre_tokenizer), progress)
    if component.denoises and request.reads_text:
        raise UserError(
            "a diffusion model reads no text", why=f"{request.model} is one", hint="name prompts with --prompts"
        )
    if component.denoises:
        return collect_drawn(component, request.drawing or Drawing(), out, request.in_files, store, request.device)
    if request.drawing is not None:
        raise UserError(
            "a language model draws no pictures", why=f"{request.model} is one", hint="name text with --file"
        )
    alone = runs_in_llamacpp(component)
    if alone:
        check_ways(request.settings.offload, "auto")
    else:
        component.check_runs("running", how_to_run(component).removesuffix("; or ") or None)
    check_collects(component, request.settings)
    given = _given(request, component)
    offload = "none" if alone else choose_offload(request.settings, component, request.device)
    if offload == "stream" and request.saving:
        raise UserError(
            "a streamed collection has no matrix before its end",
            why="all chunks pass one block after the other",
            hint="leave out --output-frequency and --save-frequency",
        )
    with progress.doing("tokenizing"):
        whole = request.text.tokenize(component)
    tuned = None
    if request.batch_tokens is None and request.shard is None and offload == "none" and not alone:
        tuned = tuned_batch(component, request.text.chunk_size, request.device, store)
    scored = request.perplexity and not component.embeds and not component.fills_in
    floats = floats_of(component, _FLOATS, progress) if alone else None
    collected_by = partial(ImatrixInLlamaCpp, file=floats) if floats else CollectedImatrix
    task = collected_by(
        component,
        whole if request.shard is None else _shard(whole, *request.shard, request.batch_tokens or BATCH_TOKENS),
        request.settings,
        offload,
        score=scored,
        provenance={CALIBRATION: whole.fingerprint, "shard": "{}/{}".format(*request.shard)} if request.shard else {},
        is_part=request.shard is not None,
        saving=replace(request.saving, onto=given) if request.saving else None,
        device=request.device,
        batch_tokens=request.batch_tokens,
        tuned=tuned or BATCH_TOKENS,
    )

    def deliver(context: Context) -> ImportanceMatrix:
        collected = context.read(task)
        matrix = collected if given is None else merge([given, collected])
        if out.suffix == DAT:
            save(matrix, out)
            for note in lost_in_dat(matrix):
                context.progress.note(f"the .dat format: {note}")
        elif given is not None:
            save(matrix, out)
        else:
            put(context.store.path(task) / IMATRIX, out, store)
        if scored:
            context.progress.note(f"perplexity {task.perplexity(context.store.path(task))}")
        return matrix

    return plan_job(
        [task],
        deliver,
        store,
        outputs=[out],
        placed_bytes=task.cost.disk_bytes,
        notes=[
            *([TUNED.format(tuned)] if tuned else []),
            *([NOTE] if alone else []),
            *context_notes(component, request.text.chunk_size),
            *(["an encoder predicts no next token: perplexity is not measured"] if component.embeds else []),
        ],
        less_memory="leave --offload out: then the weights are streamed",
    )


def _given(request: Request, component: Component) -> ImportanceMatrix | None:
    """The sum of ``in_files``. Raises ``ImatrixError`` where the matrix that is to come cannot be added to it,
    ``UserError`` where a run that goes on after a kill would count something twice."""
    if not request.in_files:
        return None
    paths = [imatrix_path(name) for name in request.in_files]
    out = request.saving.out
    if request.saving.output_every and any(out.exists() and path.samefile(out) for path in paths):
        raise UserError(
            f"{out} cannot be continued and be written to meanwhile",
            why="a run that goes on after it was killed would add the same chunks twice",
            hint="name another file with -o, or leave --output-frequency out",
        )
    given = read_sum(paths).fit(component.shapes)
    facts = {"model_identity": component.source.identity["model"]}
    empty = ImportanceMatrix({}, (), request.text.chunk_size, 0, facts)
    merge([given, empty])
    return given


def _shard(chunks: Chunks, number: int, of: int, batch_tokens: int) -> Chunks:
    """Every ``of``-th batch, so that each chunk runs in the company that it has in a single run."""

    batch = batch_chunks(chunks.chunk_size, batch_tokens)
    own = [i for i in range(len(chunks)) if i // batch % of == number - 1]
    if not own:
        raise UserError(
            f"nothing is left for shard {number}/{of}",
            why=f"{len(chunks)} chunks are run {batch} at a time",
            hint="use fewer shards, or more chunks",
        )
    return chunks.part(own)

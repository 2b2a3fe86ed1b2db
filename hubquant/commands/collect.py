"""``hubquant imatrix collect``: a matrix of one model, without a recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.calibration import Chunks, build
from hubquant.commands.files import text_sources
from hubquant.commands.runnable import open_runnable
from hubquant.commands.targets import check_target
from hubquant.disk import writing
from hubquant.engine.progress import Progress
from hubquant.errors import UserError
from hubquant.imatrix import CALIBRATION, save
from hubquant.pipeline.importance import choose_way, collect, finish
from hubquant.recipe.schema import Calibration, Imatrix

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from hubquant.imatrix import ImportanceMatrix
    from hubquant.observe import Collection

_SHARD = re.compile(r"(\d+)/(\d+)")
PERPLEXITY_EVERY = 10  # chunks between two notes


@dataclass(frozen=True)
class Request:
    """``first_chunk`` chunks are skipped; ``shard`` is (i, n), counted from 1. The matrix so far is written to ``out``
    every ``output_every`` chunks and to files of its own every ``save_every``; 0 is never."""

    model: str
    out: Path
    texts: Sequence[str] = ()
    chunks: int = 250
    chunk_size: int = 512
    first_chunk: int = 0
    parse_special: bool = False
    pre_tokenizer: str | None = None
    shard: tuple[int, int] | None = None
    perplexity: bool = True
    output_every: int = 0
    save_every: int = 0
    settings: Imatrix = field(default_factory=Imatrix)


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/4" is the second of four."""
    match = _SHARD.fullmatch(text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"{text!r} is not a shard", hint="write --shard 2/4 for the second of four")
    return int(match[1]), int(match[2])


def parse_max_memory(pairs: Sequence[str]) -> dict[str, str]:
    """ "cpu=12GiB" by device, as transformers has it."""
    parsed = [re.fullmatch(r"(cpu|\d+)=(\d+(?:\.\d+)?\s*[KMGT]i?B)", pair, re.IGNORECASE) for pair in pairs]
    if None in parsed:
        raise UserError(f"{pairs[parsed.index(None)]!r} is no memory limit", hint="write --max-memory cpu=12GiB")
    return {match[1].lower(): match[2].replace(" ", "") for match in parsed if match}


def collect_imatrix(request: Request, progress: Progress) -> ImportanceMatrix:
    """Goes on from an earlier, killed call. Raises ``UserError`` before any weight is read."""
    from hubquant.imatrix import lost_in_dat
    from hubquant.imatrix.files import DAT
    from hubquant.observe import Keeping

    check_target(request.out, "imatrix")
    runnable = open_runnable(request.model, request.pre_tokenizer, progress)
    source = runnable.source
    way = choose_way(request.settings, runnable.conversion.shapes, can_stream=source.can_stream)
    if way == "stream" and (request.output_every or request.save_every):
        raise UserError(
            "a streamed collection has no matrix before its end",
            why="all chunks pass one block after the other",
            hint="leave out --output-frequency and --save-frequency",
        )
    with progress.doing("tokenizing"):
        whole = _chunks(request, source.tokenizer())
    tokens = whole if request.shard is None else _shard(whole, *request.shard)
    with writing(request.out):
        request.out.parent.mkdir(parents=True, exist_ok=True)
    observable = runnable.observable(progress)
    keeping = Keeping(
        request.out.with_name(f".{request.out.name}.partial"), f"{source.full_name} {source.exact_revision}"
    )
    provenance = {CALIBRATION: whole.fingerprint}
    if request.shard:
        provenance["shard"] = "{}/{}".format(*request.shard)
    collection = collect(
        observable,
        tokens,
        request.settings,
        way,
        keeping,
        progress,
        score=_score if request.perplexity else None,
        provenance=provenance,
        watch=_Watch(request, progress),
    )
    matrix = finish(collection, observable, progress, partial=request.shard is not None)
    save(matrix, request.out)
    if request.out.suffix == DAT:
        for note in lost_in_dat(matrix):
            progress.note(f"the .dat format: {note}")
    keeping.path.unlink(missing_ok=True)
    if collection.nll:
        progress.note(f"perplexity {perplexity_of(collection)}")
    return matrix


def perplexity_of(collection: Collection) -> str:
    import torch

    from hubquant.evaluate import Perplexity

    found = Perplexity.of(torch.cat(collection.nll))
    return f"{found.ppl:.4f} ± {found.error:.4f}"


def _chunks(request: Request, tokenizer: PreTrainedTokenizerBase) -> Chunks:
    sources = [
        source.model_copy(update={"parse_special": True}) if request.parse_special else source
        for source in text_sources(request.texts, Calibration().sources)
    ]
    chunks = build(sources, tokenizer, request.chunk_size, request.first_chunk + request.chunks, seed=0)
    if request.first_chunk >= len(chunks):
        raise UserError(
            f"there is no chunk {request.first_chunk + 1}",
            why=f"the text has {len(chunks)} chunks of {request.chunk_size} tokens",
            hint="use more text, or a smaller --chunk",
        )
    return chunks if request.first_chunk == 0 else chunks.part(range(request.first_chunk, len(chunks)))


def _shard(chunks: Chunks, number: int, of: int) -> Chunks:
    """Every ``of``-th batch, so that each chunk runs in the company that it has in a single run."""
    from hubquant.observe.collector import batch_chunks

    batch = batch_chunks(chunks.chunk_size)
    own = [i for i in range(len(chunks)) if i // batch % of == number - 1]
    if not own:
        raise UserError(
            f"nothing is left for shard {number}/{of}",
            why=f"{len(chunks)} chunks are run {batch} at a time",
            hint="use fewer shards, or more chunks",
        )
    return chunks.part(own)


def _score(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    from hubquant.evaluate.likelihood import negative_log_likelihood
    from hubquant.evaluate.scoring import n_scored, scored_targets

    return negative_log_likelihood(logits[-n_scored(len(ids)) - 1 : -1], scored_targets(ids))


class _Watch:
    """Tells the perplexity so far and writes the matrix so far, every so many chunks."""

    def __init__(self, request: Request, progress: Progress) -> None:
        self._request, self._progress = request, progress
        self._done: int | None = None

    def __call__(self, collection: Collection) -> None:
        passed = self._passed(collection.done)
        if collection.nll and passed(PERPLEXITY_EVERY):
            self._progress.note(f"perplexity after {collection.done} chunks: {perplexity_of(collection)}")
        if passed(self._request.output_every):
            save(collection.matrix(), self._request.out)
        if passed(self._request.save_every):
            out = self._request.out
            save(collection.matrix(), out.with_name(f"{out.name}.at_{collection.done}"))
        self._done = collection.done

    def _passed(self, done: int) -> Callable[[int], bool]:
        """Whether a multiple of a number was reached since the last batch."""
        before = self._done if self._done is not None else max(0, done - 1)
        return lambda every: every > 0 and done // every > before // every

"""Compare a model with a stored baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from hubquant.errors import BaselineError, EvaluationError
from hubquant.evaluate.baseline import Baseline
from hubquant.evaluate.divergence import Divergence, TokenStatistics, summarize, token_statistics
from hubquant.evaluate.report_file import write_report
from hubquant.evaluate.runner import Runner
from hubquant.evaluate.scoring import row_blocks, scored_logits, scored_targets
from hubquant.evaluate.snapshot import FinishedChunks
from hubquant.evaluate.stopping import Precision, Stop, Watch, visiting_order


def compare(
    runner: Runner,
    baseline: Baseline,
    *,
    chunks: Sequence[int] | None = None,
    texts: Sequence[str] = (),
    until: Precision | None = None,
    snapshot: Path | None = None,
    report: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Divergence:
    """How far the model of ``runner`` is from ``baseline``, over all its chunks or those of the numbers ``chunks``;
    ``advance`` is called once per chunk. With ``until`` they are taken in a random order, and no more of them than it
    takes to be so sure. ``texts`` name the text of each chunk of the baseline.

    With ``snapshot`` every finished chunk is kept in that file, and a later call with the same baseline goes on from
    there; the file must be used for one model, ``chunks`` and ``until`` only, and is the caller's to delete. ``report``
    is where the statistics of every token are written in the end (see :mod:`hubquant.evaluate.report_file`). Raises
    EvaluationError when a logit is not finite or the vocabularies differ, BaselineError when the baseline is empty.
    """
    if not baseline.n_chunks:
        raise BaselineError("the baseline is empty", hint="write it again: hubquant evaluate baseline")
    store = FinishedChunks(snapshot, baseline.key, len(FIELDS) * baseline.n_scored) if snapshot else None
    finished: FinishedChunks | list[np.ndarray] = [] if store is None else store
    numbers: Sequence[int] = range(baseline.n_chunks) if chunks is None else chunks
    watch = Watch(until, len(numbers)) if until else None
    if watch:
        numbers = [numbers[place] for place in visiting_order(len(numbers))]
    taken = list[int]()
    if len(finished):
        advance(min(len(finished), len(numbers)))
    ids = baseline.ids
    try:
        for place, chunk in enumerate(numbers):
            if place == len(finished):
                finished.append(_chunk_statistics(runner, baseline, chunk, ids[chunk]).stacked().flatten().numpy())
                advance(1)
            taken.append(chunk)
            if watch and watch.is_sure(_tokens(finished[place]).kld):
                break
    finally:
        if store:
            store.close()
    places = sorted(range(len(taken)), key=lambda place: taken[place])
    names = [texts[taken[place]] for place in places] if texts else ()
    return conclude(
        _Ordered(finished, places),
        len(taken),
        baseline.n_vocab,
        names,
        report,
        numbers=sorted(taken),
        stop=watch.stop if watch else None,
    )


@dataclass(frozen=True)
class _Ordered:
    """Records by their places, read one by one."""

    records: FinishedChunks | list[np.ndarray]
    places: Sequence[int]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.records[place] for place in self.places)


def _tokens(record: np.ndarray) -> TokenStatistics:
    return TokenStatistics(*torch.tensor(record).reshape(len(FIELDS), -1))


def conclude(
    finished: Iterable[np.ndarray],
    n_chunks: int,
    n_vocab: int,
    texts: Sequence[str] = (),
    report: Path | None = None,
    *,
    numbers: Sequence[int] | None = None,
    stop: Stop | None = None,
) -> Divergence:
    """Of the first ``n_chunks`` records of ``finished``, each of all ``FIELDS`` of a chunk in turn; ``texts``
    and ``report`` are those of :func:`compare`, and ``numbers`` those of the chunks where they are not all."""

    def tokens() -> Iterator[TokenStatistics]:
        return map(_tokens, islice(finished, n_chunks))

    divergence = replace(summarize(tokens(), n_vocab, texts), stop=stop)
    if report:
        write_report(report, tokens(), divergence, range(n_chunks) if numbers is None else numbers, texts)
    return divergence


def compare_baselines(first: Path, second: Path) -> Divergence:
    """How far the model of the baseline ``second`` is from that of ``first``; both must be of the same token ids.

    Raises BaselineError when they are not, or when one cannot be read.
    """
    with Baseline.open(first) as base, Baseline.open(second) as other:
        if base.identity.chunks_fingerprint != other.identity.chunks_fingerprint or base.n_vocab != other.n_vocab:
            raise BaselineError(
                f"{first.name} and {second.name} cannot be compared",
                why="they were written on different token ids",
                hint="write both with the same text, chunks and chunk size, of models with the same tokenizer",
            )
        ids = base.ids
        chunks = (_stored_statistics(base, other, chunk, ids[chunk]) for chunk in range(base.n_chunks))
        return summarize(chunks, base.n_vocab)


def _stored_statistics(base: Baseline, other: Baseline, chunk: int, ids: torch.Tensor) -> TokenStatistics:
    base.check(chunk)
    other.check(chunk)
    nll_base, top, targets = base.nll(chunk), base.top(chunk), scored_targets(ids)
    log_q, log_p = other.log_probs(chunk), base.log_probs(chunk)
    decoded = token_statistics(log_q, log_p, nll_base, top, targets)
    nll = other.nll(chunk).double()
    return TokenStatistics(
        nll=nll,
        nll_base=decoded.nll_base,
        kld=decoded.kld,
        delta_p=(-nll).exp() - (-decoded.nll_base).exp(),
        same_top=(other.top(chunk) == top).double(),
        entropy=decoded.entropy,
    )


FIELDS = tuple(TokenStatistics.__dataclass_fields__)


def _chunk_statistics(runner: Runner, baseline: Baseline, chunk: int, ids: torch.Tensor) -> TokenStatistics:
    baseline.check(chunk)
    logits = scored_logits(runner, ids)
    if logits.shape[1] != baseline.n_vocab:
        raise EvaluationError(
            f"the model has a vocabulary of {logits.shape[1]}, the baseline one of {baseline.n_vocab}",
            why="they belong to different models",
            hint="write a baseline of the model that the file was made from",
        )
    targets, nll, top = scored_targets(ids), baseline.nll(chunk), baseline.top(chunk)
    parts = [
        token_statistics(logits[rows], baseline.log_probs(chunk, rows), nll[rows], top[rows], targets[rows]).stacked()
        for rows in row_blocks(logits)
    ]
    return TokenStatistics(*torch.cat(parts, dim=1))

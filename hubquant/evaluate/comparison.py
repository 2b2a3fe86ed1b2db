"""Compare a model with a stored baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from hubquant.errors import BaselineError, EvaluationError
from hubquant.evaluate.baseline import Baseline
from hubquant.evaluate.baseline_full import FullScores
from hubquant.evaluate.baseline_llama_cpp import LlamaCppScores
from hubquant.evaluate.divergence import Divergence, TokenStatistics, summarize
from hubquant.evaluate.report_file import write_report
from hubquant.evaluate.runner import Runner
from hubquant.evaluate.sampling import ErrorBound, SampleError
from hubquant.evaluate.scoring import scored_logits, scored_targets
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
    store = FinishedChunks(snapshot, baseline.key, COLUMNS * baseline.n_scored) if snapshot else None
    finished: FinishedChunks | list[np.ndarray] = [] if store is None else store
    numbers: Sequence[int] = range(baseline.n_chunks) if chunks is None else chunks

    def record(chunk: int) -> np.ndarray:
        tokens, error = _chunk_statistics(runner, baseline, chunk, baseline.ids[chunk])
        return torch.cat([tokens.stacked(), error.stacked()]).flatten().numpy()

    try:
        taken = take_chunks(record, numbers, finished, COLUMNS, until, advance)
    finally:
        if store is not None:
            store.close()
    bound = ErrorBound()
    for each in islice(finished, len(taken.numbers)):
        bound.add(SampleError(*torch.tensor(each).reshape(COLUMNS, -1)[len(FIELDS) :]))
    return _bounded(taken.conclude(baseline.n_vocab, texts, report), bound, baseline)


@dataclass(frozen=True)
class Taken:
    """The chunks of the ``numbers`` in a text, in the order in which they were measured, and why no more of them."""

    numbers: list[int]
    finished: FinishedChunks | list[np.ndarray]
    columns: int
    stop: Stop | None

    def conclude(self, n_vocab: int, texts: Sequence[str] = (), report: Path | None = None) -> Divergence:
        """What they come to, as :func:`conclude`; ``texts`` name the text of every chunk, whether it was taken or
        not."""
        places = sorted(range(len(self.numbers)), key=lambda place: self.numbers[place])
        names = [texts[self.numbers[place]] for place in places] if texts else ()
        measured = StoredStatistics(self.finished, places, self.columns)
        return conclude(measured, n_vocab, names, report, sorted(self.numbers), self.stop)


def take_chunks(
    record: Callable[[int], np.ndarray],
    numbers: Sequence[int],
    finished: FinishedChunks | list[np.ndarray],
    columns: int,
    until: Precision | None,
    advance: Callable[[int], None],
) -> Taken:
    """Measure the chunks of these ``numbers`` that are not ``finished`` yet, each giving a ``record``: in their order,
    or with ``until`` in a random one and no more than it takes to be so sure."""
    watch = Watch(until, len(numbers)) if until else None
    if watch:
        numbers = [numbers[place] for place in visiting_order(len(numbers))]
    taken = list[int]()
    if len(finished):
        advance(min(len(finished), len(numbers)))
    for place, chunk in enumerate(numbers):
        if place == len(finished):
            finished.append(record(chunk))
            advance(1)
        taken.append(chunk)
        if watch and watch.is_sure(_tokens(finished[place], columns).kld):
            break
    return Taken(taken, finished, columns, watch.stop if watch else None)


@dataclass(frozen=True)
class StoredStatistics:
    """Of chunks, read one by one from the ``records`` at ``places``; each has so many ``columns``, of which the first
    are those of :class:`TokenStatistics`."""

    records: FinishedChunks | list[np.ndarray]
    places: Sequence[int]
    columns: int

    def __iter__(self) -> Iterator[TokenStatistics]:
        return (_tokens(self.records[place], self.columns) for place in self.places)


def _tokens(record: np.ndarray, columns: int) -> TokenStatistics:
    return TokenStatistics(*torch.tensor(record).reshape(columns, -1)[: len(FIELDS)])


def conclude(
    chunks: StoredStatistics,
    n_vocab: int,
    texts: Sequence[str] = (),
    report: Path | None = None,
    numbers: Sequence[int] | None = None,
    stop: Stop | None = None,
) -> Divergence:
    """What ``chunks`` come to; ``texts`` and ``report`` are those of :func:`compare`, and ``numbers`` those of the
    chunks where they are not all."""
    divergence = replace(summarize(chunks, n_vocab, texts), stop=stop)
    if report:
        write_report(report, chunks, divergence, chunks.places if numbers is None else numbers, texts)
    return divergence


def compare_baselines(first: Path, second: Path) -> Divergence:
    """How far the model of the baseline ``second`` is from that of ``first``, on the chunks that both have.

    Raises BaselineError when they have none or other vocabularies, when ``second`` does not hold whole distributions,
    or when one cannot be read.
    """
    with Baseline.open(first) as base, Baseline.open(second) as other:
        pairs = _common_chunks(first, base, second, other)
        chunks = (_stored_statistics(base, mine, other, yours) for mine, yours in pairs)
        bound = ErrorBound()

        def tokens() -> Iterator[TokenStatistics]:
            for statistics, error in chunks:
                bound.add(error)
                yield statistics

        return _bounded(summarize(tokens(), base.n_vocab), bound, base)


def _bounded(found: Divergence, bound: ErrorBound, baseline: Baseline) -> Divergence:
    return replace(found, kld_bound=bound.value()) if baseline.form == "compact" else found


def _common_chunks(first: Path, base: Baseline, second: Path, other: Baseline) -> list[tuple[int, int]]:
    """The numbers in both of chunks that have the same tokens."""
    what = f"{first.name} and {second.name} cannot be compared"
    if base.n_vocab != other.n_vocab:
        raise BaselineError(
            what,
            why=f"they are of vocabularies of {base.n_vocab} and {other.n_vocab} tokens",
            hint="write both of models with the same tokenizer",
        )
    if not isinstance(other.scores, FullScores | LlamaCppScores):
        raise BaselineError(
            what,
            why=f"{second.name} does not hold whole distributions",
            hint="write it with hubquant evaluate baseline --full",
        )
    places = {tuple(ids.tolist()): chunk for chunk, ids in enumerate(other.ids)}
    pairs = [
        (chunk, place) for chunk, ids in enumerate(base.ids) if (place := places.get(tuple(ids.tolist()))) is not None
    ]
    if not pairs:
        raise BaselineError(
            what,
            why="they were written on different token ids",
            hint="write both with the same text, chunks and chunk size, of models with the same tokenizer",
        )
    return pairs


def _stored_statistics(base: Baseline, mine: int, other: Baseline, yours: int) -> tuple[TokenStatistics, SampleError]:
    other.check(yours)
    assert isinstance(other.scores, FullScores | LlamaCppScores)
    targets = scored_targets(base.ids[mine])
    found, error = base.statistics(other.scores.log_probs(yours), targets, mine)
    if not isinstance(other.scores, FullScores):
        return found, error
    nll = other.scores.nll(yours).double()  # exact, as the codes are not
    same_top = (other.scores.top(yours) == base.scores.top(mine)).double()
    return replace(found, nll=nll, delta_p=(-nll).exp() - (-found.nll_base).exp(), same_top=same_top), error


FIELDS = tuple(field.name for field in fields(TokenStatistics))
COLUMNS = len(FIELDS) + len(fields(SampleError))


def _chunk_statistics(
    runner: Runner, baseline: Baseline, chunk: int, ids: torch.Tensor
) -> tuple[TokenStatistics, SampleError]:
    baseline.check(chunk)
    logits = scored_logits(runner, ids)
    if logits.shape[1] != baseline.n_vocab:
        raise EvaluationError(
            f"the model has a vocabulary of {logits.shape[1]}, the baseline one of {baseline.n_vocab}",
            why="they belong to different models",
            hint="write a baseline of the model that the file was made from",
        )
    return baseline.scores.statistics(logits, scored_targets(ids), chunk)

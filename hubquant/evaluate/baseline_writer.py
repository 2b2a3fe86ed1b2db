"""Writes a baseline so that it appears complete or not at all, and goes on where a killed process stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from hubquant.errors import BaselineError
from hubquant.evaluate.appended import AppendingWriter
from hubquant.evaluate.baseline import Baseline, BaselineIdentity
from hubquant.evaluate.forms import Form
from hubquant.evaluate.preallocated import PreallocatedWriter
from hubquant.evaluate.runner import Runner
from hubquant.evaluate.scoring import scored_logits, scored_targets

if TYPE_CHECKING:
    from hubquant.calibration import Chunks


class _Writer(Protocol):
    """Of one form. ``done`` are the numbers of the chunks that need no logits any more."""

    done: set[int]

    def write(self, chunk: int, logits: Tensor, targets: Tensor) -> None: ...

    def finish(self) -> None:
        """Put the file where it belongs."""


def write_baseline(
    runner: Runner,
    chunks: Chunks,
    path: Path,
    *,
    name: str,
    revision: str,
    form: Form = "compact",
    tokens_fingerprint: str = "",
    first_chunk: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> Baseline:
    """Store at ``path`` the distributions that ``runner`` gives for ``chunks``; ``advance`` is called once per chunk.

    ``name`` and ``revision`` of the model go into the file, and so do the others (see :class:`BaselineIdentity`) where
    ``form`` has room. A baseline of the same model and chunks that is already there is opened; one that a killed
    process left goes on at the first missing chunk. Raises EvaluationError for logits that are not finite,
    DiskFullError before the work when there is too little room, and OutputError.
    """
    texts = "\n".join(chunks.datasets)
    identity = BaselineIdentity(name, revision, chunks.fingerprint, tokens_fingerprint, first_chunk, texts)
    if (finished := _finished(path, identity, form)) is not None:
        advance(finished.n_chunks)
        return finished
    if not len(chunks):
        raise BaselineError("there is nothing to write a baseline on", why="the evaluation text has no chunks")
    writer: _Writer = (
        AppendingWriter(path, identity, chunks.ids)
        if form == "compact"
        else PreallocatedWriter(path, identity, chunks.ids, form)
    )
    if writer.done:
        advance(len(writer.done))
    for i, ids in enumerate(chunks.ids):
        if i not in writer.done:
            writer.write(i, scored_logits(runner, ids), scored_targets(ids))
            advance(1)
    writer.finish()
    return Baseline.open(path)


def _finished(path: Path, identity: BaselineIdentity, form: Form) -> Baseline | None:
    if not path.exists():
        return None
    try:
        baseline = Baseline.open(path)
    except BaselineError:
        return None
    same = baseline.identity == identity and baseline.form == form
    if same and all(map(baseline.is_whole, range(baseline.n_chunks))):
        return baseline
    baseline.close()
    return None

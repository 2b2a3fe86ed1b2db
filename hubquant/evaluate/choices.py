"""How often a model holds the right answer for the likeliest, by the formulas of llama-perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import torch

from hubquant.errors import EvaluationError
from hubquant.evaluate.likelihood import negative_log_likelihood
from hubquant.evaluate.runner import Runner
from hubquant.evaluate.scoring import finite
from hubquant.evaluate.snapshot import FinishedChunks

Z = 1.95996398454
"""Of a normal distribution, 95 % is within so many standard deviations."""


@dataclass(frozen=True)
class Question:
    """``sequences`` are the token ids of the question with each answer, of which those from ``begins`` to before
    ``ends`` are scored; ``right`` are the answers that count, by their numbers.

    With ``borrows`` the first scored token of every later sequence is predicted by what follows the first sequence.
    """

    sequences: tuple[tuple[int, ...], ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    right: frozenset[int]
    borrows: bool = False


@dataclass(frozen=True)
class Accuracy:
    """``percent`` of ``n_tasks`` questions answered right, with its standard error and Wilson's 95 % interval, and what
    guessing gives. All but the number of tasks are in percent."""

    percent: float
    error: float
    interval: tuple[float, float]
    n_tasks: int
    chance: float
    chance_error: float

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.percent:.4f} ± {self.error:.4f} % of {self.n_tasks} tasks, 95 % interval [{low:.4f}, {high:.4f}] "
            f"(by chance {self.chance:.4f} ± {self.chance_error:.4f} %)"
        )

    @classmethod
    def of(cls, right: Sequence[bool], n_answers: int) -> Self:
        """``right`` tells of each question whether it was answered so; ``n_answers`` is how many there were to choose
        from in all questions together, of which llama-perplexity takes one in each for a guess."""
        n = len(right)
        share = sum(right) / n
        z = Z * Z / n
        half = z * math.sqrt(n * (4 * share * (1 - share) + z)) / (2 * Z)
        low, high = ((share + z / 2 + sign * half) / (1 + z) for sign in (-1, 1))
        chance = n / n_answers
        return cls(
            100 * share,
            _error(share, n),
            (100 * low, 100 * high),
            n,
            chance=100 * chance,
            chance_error=_error(chance, n),
        )


def _error(share: float, n: int) -> float:
    """Standard error of a share of ``n``, in percent: 100·sqrt(p(1 − p) / (n − 1))."""
    return 100 * math.sqrt(share * (1 - share) / max(1, n - 1))


def accuracy(
    runner: Runner,
    questions: Sequence[Question],
    *,
    snapshot: tuple[Path, bytes] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Accuracy:
    """Of the model of ``runner``: its answer is the one whose tokens have the largest mean log-likelihood, of equal
    ones the first.

    With ``snapshot``, a file and 32 bytes that tell models and questions apart, every answered question is kept there,
    and a later call goes on. Raises EvaluationError when a logit is not finite.
    """
    if not questions:
        raise ValueError("there is no question")
    store = FinishedChunks(*snapshot, 1) if snapshot else None
    right = [bool(record[0]) for record in islice(store, len(questions))] if store is not None else []
    if right:
        advance(len(right))
    try:
        for question in questions[len(right) :]:
            found = int(np.argmax(mean_log_likelihoods(runner, question))) in question.right
            if store is not None:
                store.append(np.array([float(found)]))
            right.append(found)
            advance(1)
    finally:
        if store is not None:
            store.close()
    return Accuracy.of(right, sum(len(question.sequences) for question in questions))


def mean_log_likelihoods(runner: Runner, question: Question) -> list[float]:
    """Of the scored tokens of each answer, natural logarithm."""
    return [-float(part.mean()) for part in _negative_log_likelihoods(runner, question)]


def _negative_log_likelihoods(runner: Runner, question: Question) -> Iterator[torch.Tensor]:
    borrowed: torch.Tensor | None = None
    for sequence, begin, end in zip(question.sequences, question.begins, question.ends, strict=True):
        ids = torch.tensor(sequence)
        every = runner(ids, begin - 1)
        logits = finite(every[: end - begin])
        if borrowed is not None:
            logits = torch.cat([borrowed, logits[1:]])
        elif question.borrows:
            borrowed = finite(every[-1:])
        if int(ids.max()) >= logits.shape[1]:
            raise EvaluationError(
                f"token {int(ids.max())} is beyond the model's vocabulary of {logits.shape[1]}",
                why="the tokenizer belongs to another model",
                hint="check that weights and tokenizer are of one model",
            )
        yield negative_log_likelihood(logits, ids[begin:end])

"""Questions as text, and what is scored of them, by the rules of llama-perplexity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hubquant.errors import CalibrationError
from hubquant.evaluate.choices import Question

Encode = Callable[[str], Sequence[int]]
"""The token ids of a text, with what the tokenizer puts before one."""
LEAST_AFTER_CHOICE = 3  # tokens


@dataclass(frozen=True)
class ChoiceText:
    """A question, or the beginning of a text, with its ``answers``, of which those in ``right`` count: HellaSwag, ARC,
    MMLU, TruthfulQA."""

    question: str
    answers: tuple[str, ...]
    right: frozenset[int]

    def tokenize(self, encode: Encode) -> Question:
        """What differs between the answers is scored, to its end. Raises ``CalibrationError`` where nothing can be."""
        sequences = tuple(tuple(encode(f"{self.question} {answer}")) for answer in self.answers)
        begin = _common(sequences)
        return Question(sequences, (begin,) * len(sequences), tuple(map(len, sequences)), self.right)


@dataclass(frozen=True)
class GapText:
    """A sentence with a gap between ``before`` and ``after``, and two words to fill it: Winogrande."""

    before: str
    after: str
    choices: tuple[str, str]
    right: int

    def tokenize(self, encode: Encode) -> Question:
        """What follows the word is scored but its last token; where a sentence ends at most three tokens after it, all
        that differs.

        In that case llama-perplexity predicts the first token of the second sentence from the end of the first, and so
        do we: it is its numbers that are compared.
        """
        sequences = tuple(tuple(encode(self.before + choice + self.after)) for choice in self.choices)
        common = _common(sequences)
        after_choice = all(len(ids) - common > LEAST_AFTER_CHOICE for ids in sequences)
        begins = (
            tuple(
                min(max(len(encode(self.before + choice)), common), len(ids) - 1)
                for choice, ids in zip(self.choices, sequences, strict=True)
            )
            if after_choice
            else (common, common)
        )
        ends = tuple(
            len(ids) - 1 if len(ids) - begin > 1 else len(ids) for ids, begin in zip(sequences, begins, strict=True)
        )
        return Question(sequences, begins, ends, frozenset({self.right}), borrows=not after_choice)


TaskText = ChoiceText | GapText


def _common(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all begin with, but at least one, which nothing predicts, and so few that each has another."""
    if not sequences or min(map(len, sequences)) < 2:
        raise CalibrationError(
            "a question without text cannot be scored", why="nothing comes before its answers", hint="remove it"
        )
    columns = zip(*sequences, strict=False)
    same = next((i for i, column in enumerate(columns) if len({*column}) > 1), min(map(len, sequences)))
    return max(1, min(same, min(map(len, sequences)) - 1))

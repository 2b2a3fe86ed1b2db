"""Small tests of each kind, and their answers straight from llama-perplexity's loops over llama.cpp's logits."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support.llamacpp import LlamaCpp

SUBJECTS = ("The cook", "A small dog", "My sister", "The old teacher", "Someone in the garden", "The last train")
VERBS = ("opens the door", "looks for the key", "waits in the rain", "reads a letter", "counts the apples")
PLACES = ("at home.", "before the night comes, as always.", "in the city and then goes away", "with great care!")


def hellaswag_lines(n: int) -> list[tuple[str, int, list[str]]]:
    """Beginnings, numbers of the right ending, endings."""
    return [
        (
            f"Number {i}: {SUBJECTS[i % 6]}",
            i % 4,
            [f"{VERBS[(i + k) % 5]} {PLACES[(i * 3 + k) % 4]}" for k in range(4)],
        )
        for i in range(n)
    ]


def write_hellaswag(path: Path, n: int) -> Path:
    rows = ["\n".join([context, str(right), *endings]) for context, right, endings in hellaswag_lines(n)]
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path


def winogrande_lines(n: int) -> list[tuple[str, str, str, int]]:
    """Sentences, both words, 1 or 2. In every third the gap is near the end, and every fifth has commas."""
    found = []
    for i in range(n):
        ending = "." if i % 3 == 0 else f" {VERBS[i % 5]}{', and then' if i % 5 == 0 else ''} {PLACES[i % 4]}"
        words = ("x", "y") if i % 3 == 0 else (SUBJECTS[(i + 1) % 6], SUBJECTS[(i + 2) % 6])
        found.append((f"{SUBJECTS[i % 6]} sees that _{ending}", *words, i % 2 + 1))
    return found


def write_winogrande(path: Path, n: int) -> Path:
    rows = []
    for i, (sentence, first, second, answer) in enumerate(winogrande_lines(n)):
        quoted = f'"{sentence}"' if "," in sentence else sentence
        rows.append(f"{i},{quoted},{first},{second},{answer}\n")
    path.write_text("".join(rows), "utf-8")
    return path


def choice_tasks(n: int) -> list[tuple[str, list[str], int]]:
    """Questions with two to five answers, and the right one."""
    return [
        (f"What does {SUBJECTS[i % 6].lower()} do?", [f"It {VERBS[(i + k) % 5]}" for k in range(2 + i % 4)], i % 2)
        for i in range(n)
    ]


def write_choices(path: Path, n: int) -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<I", len(value.encode())) + value.encode()

    def answers(values: list[str], right: int) -> bytes:
        labels = [int(i == right) for i in range(len(values))]
        return struct.pack("<I", len(values)) + b"".join(map(text, values)) + struct.pack(f"<{len(values)}i", *labels)

    tasks = [text(q) + answers(values, right) + answers([], 0) for q, values, right in choice_tasks(n)]
    starts = np.cumsum([4 + 4 * n, *map(len, tasks)])[:-1]
    path.write_bytes(struct.pack(f"<{n + 1}I", n, *starts.tolist()) + b"".join(tasks))
    return path


def log_probs(model: LlamaCpp, ids: Sequence[int]) -> NDArray[np.float64]:
    """[len(ids), n_vocab]."""
    logits = model.logits(ids).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return found


def choose(model: LlamaCpp, question: str, answers: Sequence[str]) -> list[float]:
    """The score of each answer, as hellaswag_score and multiple_choice_score have it."""
    sequences = [model.tokenize(f"{question} {answer}", parse_special=False) for answer in answers]
    common = 0
    while len({ids[common] for ids in sequences}) == 1:
        common += 1
    scores = []
    for ids in sequences:
        p = log_probs(model, ids)
        total = sum(p[j, ids[j + 1]] for j in range(common - 1, len(ids) - 1))
        scores.append(total / (len(ids) - common))
    return scores


def fill(model: LlamaCpp, sentence: str, choices: Sequence[str]) -> list[float]:
    """The score of each word, as winogrande_score has it."""
    first, second = sentence.split("_", 1)
    sequences = [model.tokenize(first + choice + second, parse_special=False) for choice in choices]
    common = 0
    while sequences[0][common] == sequences[1][common]:
        common += 1
    skip = all(len(ids) - common > 3 for ids in sequences)
    p = [log_probs(model, ids) for ids in sequences]
    scores = []
    for s, ids in enumerate(sequences):
        base = len(model.tokenize(first + choices[s], parse_special=False)) if skip else common
        last = 1 if len(ids) - base > 1 else 0
        total = 0.0
        for j in range(base - 1, len(ids) - 1 - last):
            row = p[0][-1] if s == 1 and not skip and j == base - 1 else p[s][j]
            total += row[ids[j + 1]]
        scores.append(total / (len(ids) - base - last))
    return scores

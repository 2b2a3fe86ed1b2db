"""Questions in llama.cpp's files and in rows of data sets."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hubquant.calibration.dataset import read_dataset
from hubquant.calibration.files import read_jsonl, read_parquet, read_text_file
from hubquant.disk import check_ends
from hubquant.errors import CalibrationError, UserError
from hubquant.evaluate.choice_texts import ChoiceText, GapText, TaskText
from hubquant.evaluate.selection import Drawing
from hubquant.recipe.schema import TextSource

Test = Literal["hellaswag", "winogrande", "multiple-choice"]
MOST_ANSWERS = 100  # llama-perplexity refuses more


@dataclass(frozen=True)
class Format:
    """How the questions of a test are written: in ``parse``'s files, in rows that ``row`` reads (``fields`` says what
    it wants), and in the data set that is taken by default; ``drawing`` is how some of them are chosen."""

    parse: Callable[[Path], list[TaskText]]
    row: Callable[[Mapping[str, Any]], TaskText]
    fields: str
    dataset: TextSource
    drawing: Drawing


KNOWN: Mapping[str, TextSource] = {
    source.dataset: source
    for source in (
        TextSource(dataset="Rowan/hellaswag", split="validation"),
        TextSource(dataset="allenai/winogrande", config="winogrande_xl", split="validation"),
        TextSource(dataset="truthfulqa/truthful_qa", config="multiple_choice", split="validation"),
        TextSource(dataset="allenai/ai2_arc", config="ARC-Challenge", split="test"),
        TextSource(dataset="cais/mmlu", config="all", split="test"),
    )
    if source.dataset
}
"""Data sets of the Hub with the configuration and the split that are usual."""


def read_questions(test: Test, source: TextSource) -> list[TaskText]:
    """Of a data set, of rows in .jsonl or .parquet, or of a file as llama-perplexity reads it. Raises
    ``CalibrationError`` for what is none, or empty."""
    form = FORMATS[test]
    if source.file is None:
        found = _from_rows(form, source, read_dataset(source, seed=0))
    else:
        path = Path(source.file)
        match path.suffix.lower():
            case ".jsonl" | ".ndjson":
                found = _from_rows(form, source, read_jsonl(path))
            case ".parquet":
                found = _from_rows(form, source, read_parquet(path, ""))
            case _:
                found = form.parse(path)
    if not found:
        raise CalibrationError(f"{source.display_name} has no question", hint="name a file or data set with some")
    return found


def question_source(test: Test, text: str | None, config: str | None, split: str | None) -> TextSource:
    """An existing file, or else a Hub data set, by default that of the test. Raises ``UserError`` for a configuration
    or a split of a file."""
    source = FORMATS[test].dataset
    if text is not None:
        is_file = Path(text).expanduser().exists() or "/" not in text
        if is_file and (config or split):
            raise UserError(
                f"{text} has no configurations and no splits",
                why="it is a file",
                hint="leave --config and --split out",
            )
        source = TextSource(file=str(Path(text).expanduser())) if is_file else KNOWN.get(text, TextSource(dataset=text))
    return source.model_copy(update={k: v for k, v in (("config", config), ("split", split)) if v})


def _from_rows(form: Format, source: TextSource, rows: Iterable[Mapping[str, Any]]) -> list[TaskText]:
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            found.append(form.row(row))
        except (KeyError, ValueError, TypeError, AttributeError):
            raise CalibrationError(
                f"row {number:,} of {source.display_name} is no question of this test",
                why=f"it has {', '.join(map(str, row)) or 'nothing'}",
                hint=f"a row needs {form.fields}",
            ) from None
    return found


def _hellaswag_file(path: Path) -> list[TaskText]:
    """Six lines each: the beginning, the number of the right ending, four endings."""
    lines = read_text_file(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    if len(lines) % 6:
        raise _not(path, "HellaSwag", f"{len(lines):,} lines do not make tasks of six lines")
    found: list[TaskText] = []
    for start in range(0, len(lines), 6):
        context, right, *endings = lines[start : start + 6]
        if right.strip() not in ("0", "1", "2", "3"):
            raise _not(path, "HellaSwag", f"line {start + 2:,} is not the number of an ending: {right[:40]}")
        found.append(ChoiceText(context, tuple(endings), frozenset({int(right)})))
    return found


def _hellaswag_row(row: Mapping[str, Any]) -> TaskText:
    """As lm-evaluation-harness prepares it, and with it the file that llama.cpp's users have."""
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    endings = tuple(map(_without_brackets, row["endings"]))
    right = int(row["label"])
    if len(endings) < 2 or not 0 <= right < len(endings):
        raise ValueError(right)
    return ChoiceText(_without_brackets(context), endings, frozenset({right}))


def _without_brackets(text: str) -> str:
    """Brackets are left from WikiHow's headings."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _winogrande_file(path: Path) -> list[TaskText]:
    """Lines of number, sentence, first and second word, and 1 or 2 for the right one; quotes around a sentence that
    has commas stay within it where they are doubled."""
    return [
        _winogrande_line(line, f"line {number:,} of {path}")
        for number, line in enumerate(read_text_file(path).splitlines(), start=1)
        if line
    ]


def _winogrande_line(line: str, place: str) -> TaskText:
    commas = [m.start() for m in re.finditer(r',|"[^"]*"', line) if m[0] == ","][:4]
    if len(commas) == 4:
        _, sentence, first, second = (
            line[begin + 1 : end] for begin, end in zip([-1, *commas[:3]], commas, strict=True)
        )
        answer = line[commas[3] + 1 :].strip()
        if sentence.startswith('"'):
            sentence = sentence[1:-1]
        if "_" in sentence and answer in ("1", "2"):
            return _gap(sentence, first, second, answer)
    raise CalibrationError(
        f"{place} is no task of Winogrande",
        why=f"it is {line[:60]}",
        hint="a line is: number,sentence with a _,first word,second word,1 or 2",
    )


def _winogrande_row(row: Mapping[str, Any]) -> TaskText:
    return _gap(row["sentence"], row["option1"], row["option2"], row["answer"])


def _gap(sentence: str, first: str, second: str, answer: str) -> TaskText:
    before, _, after = sentence.partition("_")
    return GapText(before, after, (str(first), str(second)), {"1": 0, "2": 1}[str(answer)])


def _multiple_choice_file(path: Path) -> list[TaskText]:
    """The number of tasks, where each begins, and the tasks: the question, its answers with labels, of which one is 1,
    and answers of which several may be right, which are not used. All numbers have 32 bits."""
    try:
        check_ends(path)
        data = path.read_bytes()
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read", why=error.strerror, hint="check the path") from None
    try:
        (n_tasks,) = struct.unpack_from("<I", data)
        starts = struct.unpack_from(f"<{n_tasks}I", data, 4)
        return [_binary_task(data, start) for start in starts]
    except (struct.error, ValueError, OverflowError, MemoryError):
        raise _not(path, "multiple choice", "numbers and lengths in it lead beyond its end") from None


def _binary_task(data: bytes, at: int) -> TaskText:
    question, at = _binary_text(data, at)
    (n,) = struct.unpack_from("<I", data, at)
    at += 4
    if not question or not 1 < n <= MOST_ANSWERS:
        raise ValueError(n)
    answers = []
    for _ in range(n):
        answer, at = _binary_text(data, at)
        answers.append(answer)
    labels = struct.unpack_from(f"<{n}i", data, at)
    return ChoiceText(question, tuple(answers), frozenset(i for i, label in enumerate(labels) if label == 1))


def _binary_text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", data, at)
    end = at + 4 + length
    if end > len(data):
        raise ValueError(length)
    return data[at + 4 : end].decode(), end


def _multiple_choice_row(row: Mapping[str, Any]) -> TaskText:
    """TruthfulQA's, ARC's and MMLU's fields. The words around a question are lm-evaluation-harness's."""
    if "mc1_targets" in row:
        answers, labels = row["mc1_targets"]["choices"], row["mc1_targets"]["labels"]
        right = frozenset(i for i, label in enumerate(labels) if label == 1)
    elif "answerKey" in row:
        answers = row["choices"]["text"]
        right = frozenset({list(row["choices"]["label"]).index(row["answerKey"])})
    else:
        answers, right = row["choices"], frozenset({int(row["answer"])})
    if not isinstance(answers, Sequence) or isinstance(answers, str) or not 1 < len(answers) <= MOST_ANSWERS:
        raise ValueError(answers)
    if not right or max(right) >= len(answers):
        raise ValueError(right)
    return ChoiceText(f"Question: {row['question']}\nAnswer:", tuple(map(str, answers)), right)


def _not(path: Path, test: str, why: str) -> CalibrationError:
    return CalibrationError(
        f"{path} is no {test} file",
        why=why,
        hint="name a file in llama-perplexity's format, rows in .jsonl or .parquet, or a data set of the Hub",
    )


FORMATS: Mapping[Test, Format] = {
    "hellaswag": Format(
        _hellaswag_file,
        _hellaswag_row,
        "activity_label, ctx_a, ctx_b, endings and label",
        KNOWN["Rowan/hellaswag"],
        "uniform",
    ),
    "winogrande": Format(
        _winogrande_file,
        _winogrande_row,
        "sentence with a _, option1, option2 and answer (1 or 2)",
        KNOWN["allenai/winogrande"],
        "scaled",
    ),
    "multiple-choice": Format(
        _multiple_choice_file,
        _multiple_choice_row,
        "question and choices with answer or answerKey, or mc1_targets",
        KNOWN["truthfulqa/truthful_qa"],
        "scaled",
    ),
}

"""Scores of tests and strided perplexity against llama-perplexity's formulas, on logits and tokens of llama.cpp."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hubquant.errors import CalibrationError, EvaluationError
from hubquant.evaluate import Accuracy, Perplexity, accuracy, perplexity
from hubquant.evaluate.choice_files import FORMATS, Test, read_questions
from hubquant.evaluate.choice_texts import ChoiceText, GapText
from hubquant.evaluate.choices import Question, mean_log_likelihoods
from hubquant.evaluate.selection import select
from hubquant.models.language_model import LanguageModel
from hubquant.models.tiny import build
from hubquant.recipe.schema import TextSource
from hubquant.sources.checkpoint import load_folder
from hubquant.sources.source import SourceModel
from tests.support import choices
from tests.support.cli import hubquant
from tests.support.evaluation import counted, random_chunks
from tests.support.llamacpp import LlamaCpp
from tests.support.localhub import LocalHub

N = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answers differ, as a folder and as model.gguf."""
    folder = tmp_path_factory.mktemp("model")
    build("llama", folder / "model", initializer_range=0.2)
    assert hubquant("convert", str(folder / "model"), "-t", "F32", "-o", str(folder / "model.gguf")).code == 0
    choices.write_hellaswag(folder / "hellaswag.txt", N)
    choices.write_winogrande(folder / "winogrande.csv", N)
    choices.write_choices(folder / "choices.bin", N)
    return folder


@pytest.fixture(scope="module")
def llama(folder: Path) -> Iterator[LlamaCpp]:
    with LlamaCpp(folder / "model.gguf") as model:
        yield model


@pytest.fixture(scope="module")
def runner(folder: Path) -> LanguageModel:
    return LanguageModel(load_folder(folder / "model", "cpu"))


def measured(*words: str | Path) -> dict[str, float]:
    outcome = hubquant("evaluate", *map(str, words), "--json")
    assert outcome.code == 0, outcome.err
    found: dict[str, float] = json.loads(outcome.out)
    return found


def scores(test: Test, file: Path, folder: Path, runner: LanguageModel) -> list[list[float]]:
    """Of every answer of every question."""
    from hubquant.sources.checkpoint import open_folder

    source: SourceModel = open_folder(folder / "model", "model")
    tokenizer = source.tokenizer()

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, split_special_tokens=True)["input_ids"])

    texts = read_questions(test, TextSource(file=str(file)))
    return [mean_log_likelihoods(runner, text.tokenize(encode)) for text in texts]


def check(test: Test, file: Path, folder: Path, runner: LanguageModel, expected: list[list[float]], right: list[int]):  # type: ignore[no-untyped-def]
    """Each score, and what the command says of the checkpoint and of the file."""
    for found, wanted in zip(scores(test, file, folder, runner), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    n_right = sum(int(np.argmax(wanted)) == answer for wanted, answer in zip(expected, right, strict=True))
    assert 0 < n_right < N
    for model in (folder / "model", folder / "model.gguf"):
        result = measured(test, model, "-f", file)
        assert result["percent"] == pytest.approx(100 * n_right / N)
        assert result["n_tasks"] == N


def test_hellaswag(folder: Path, llama: LlamaCpp, runner: LanguageModel) -> None:
    tasks = choices.hellaswag_lines(N)
    expected = [choices.choose(llama, context, endings) for context, _, endings in tasks]
    check("hellaswag", folder / "hellaswag.txt", folder, runner, expected, [right for _, right, _ in tasks])


def test_winogrande(folder: Path, llama: LlamaCpp, runner: LanguageModel) -> None:
    tasks = choices.winogrande_lines(N)
    expected = [choices.fill(llama, sentence, words) for sentence, *words, _ in tasks]  # type: ignore[arg-type]
    check("winogrande", folder / "winogrande.csv", folder, runner, expected, [answer - 1 for *_, answer in tasks])


def test_multiple_choice(folder: Path, llama: LlamaCpp, runner: LanguageModel) -> None:
    tasks = choices.choice_tasks(N)
    expected = [choices.choose(llama, question, answers) for question, answers, _ in tasks]
    check("multiple-choice", folder / "choices.bin", folder, runner, expected, [right for *_, right in tasks])


def test_strided_perplexity(folder: Path, llama: LlamaCpp, tmp_path: Path) -> None:
    text = " ".join(f"{context} {ending}" for context, _, endings in choices.hellaswag_lines(12) for ending in endings)
    (tmp_path / "text.txt").write_text(text, "utf-8")
    size, stride = 64, 20
    ids = llama.tokenize(text, parse_special=False)
    window = size + stride // 2
    nll = []
    for i in range((len(ids) - window + stride - 1) // stride):
        part = ids[i * stride : i * stride + window]
        p = choices.log_probs(llama, part)
        nll += [-p[j, part[j + 1]] for j in range(window - stride - 1, window - 1)]
    for model in (folder / "model", folder / "model.gguf"):
        words = [
            "-f",
            tmp_path / "text.txt",
            "--chunk-size",
            str(size),
            "--ppl-stride",
            str(stride),
            "--chunks",
            "1000",
        ]
        result = measured("ppl", model, *words)
        assert result["n_tokens"] == len(nll)
        assert result["ppl"] == pytest.approx(math.exp(np.mean(nll)), rel=1e-4)


def test_a_stride_leaves_nothing_out_and_goes_over_one_text(folder: Path) -> None:
    text = str(folder / "hellaswag.txt")
    too_long = hubquant(
        "evaluate", "ppl", str(folder / "model"), "-f", text, "--chunk-size", "32", "--ppl-stride", "33"
    )
    assert "is longer than a chunk of 32" in too_long.err
    several = hubquant("evaluate", "ppl", str(folder / "model"), "-f", text, "-f", text, "--ppl-stride", "8")
    assert "over one text" in several.err
    short = hubquant("evaluate", "ppl", str(folder / "model"), "-f", text, "--chunk-size", "99999", "--ppl-stride", "8")
    assert "too short" in short.err


def test_of_many_tasks_those_of_llama_perplexity_are_asked() -> None:
    """Drawn by a program that was compiled with GCC's standard library, seed 1."""
    uniform, scaled = [20, 49, 35, 45, 0, 6, 15, 48, 8, 12, 4, 22], [20, 48, 34, 43, 0, 5, 13, 42, 6, 9, 3, 15]
    assert select(range(50), 12, 1, "uniform") == uniform
    assert select(range(50), 12, 1, "scaled") == scaled
    assert select(range(5), 5, 1, "scaled") == list(range(5))
    assert FORMATS["hellaswag"].drawing == "uniform"


@given(st.integers(1, 400), st.data(), st.integers(0, 2**32 - 1), st.sampled_from(["uniform", "scaled"]))
def test_no_task_is_asked_twice(n: int, data: st.DataObject, seed: int, drawing) -> None:  # type: ignore[no-untyped-def]
    found = select(range(n), data.draw(st.integers(1, n)), seed, drawing)
    assert len({*found}) == len(found)
    assert {*found} <= {*range(n)}


def test_errors_as_llama_perplexity_prints_them() -> None:
    found = Accuracy.of([True] * 30 + [False] * 90, 480)
    assert (found.percent, found.n_tasks) == (25.0, 120)
    assert found.error == pytest.approx(100 * math.sqrt(0.25 * 0.75 / 119))
    assert (found.chance, found.chance_error) == (25.0, pytest.approx(found.error))
    # Wilson: the shares p with |p̂ - p| = z·sqrt(p(1 - p) / n)
    for share in (bound / 100 for bound in found.interval):
        assert abs(0.25 - share) == pytest.approx(1.95996398454 * math.sqrt(share * (1 - share) / 120))
    assert Accuracy.of([True], 2).error == 0


def test_a_broken_off_score_goes_on(runner: LanguageModel, tmp_path: Path) -> None:
    questions = [Question(((1, 2, 3 + i), (1, 2, 4 + i, 5)), (2, 2), (3, 4), frozenset({i % 2})) for i in range(6)]
    snapshot, calls = (tmp_path / "snapshot", b"k" * 32), list[int]()
    whole = accuracy(runner, questions)
    with pytest.raises(KeyboardInterrupt):
        accuracy(counted(runner, calls, stop_after=7), questions, snapshot=snapshot)
    done: list[int] = []
    again = accuracy(counted(runner, calls := []), questions, snapshot=snapshot, advance=done.append)
    assert again == whole
    assert (len(calls), done) == (6, [3, 1, 1, 1])
    accuracy(counted(runner, calls := []), questions, snapshot=(tmp_path / "snapshot", b"o" * 32))
    assert len(calls) == 12


def test_a_broken_off_perplexity_goes_on(runner: LanguageModel, tmp_path: Path) -> None:
    chunks, snapshot = random_chunks(5, 16, 256), (tmp_path / "snapshot", b"k" * 32)
    whole: Perplexity = perplexity(runner, chunks)
    with pytest.raises(KeyboardInterrupt):
        perplexity(counted(runner, [], stop_after=3), chunks, snapshot=snapshot)
    calls: list[int] = []
    assert perplexity(counted(runner, calls), chunks, snapshot=snapshot) == whole
    assert len(calls) == 2


def test_logits_that_are_no_numbers_are_refused() -> None:
    question = Question(((1, 2), (1, 3)), (1, 1), (2, 2), frozenset({0}))
    with pytest.raises(EvaluationError, match="NaN"):
        accuracy(lambda ids, first=0: torch.full((len(ids) - first, 8), math.nan), [question])


def test_every_answer_has_a_token_that_is_scored() -> None:
    def encode(text: str) -> list[int]:
        return [1, *text.encode()]

    same = ChoiceText("a", ("b", "b"), frozenset({0})).tokenize(encode)
    assert (same.begins, same.ends) == ((3, 3), (4, 4))
    part = ChoiceText("a", ("b", "bc"), frozenset({0})).tokenize(encode)
    assert (part.begins, part.ends) == ((3, 3), (4, 5))
    at_end = GapText("a", "", ("one", "other"), 0).tokenize(encode)
    assert all(
        begin < end <= len(ids) for ids, begin, end in zip(at_end.sequences, at_end.begins, at_end.ends, strict=True)
    )


ROWS: dict[Test, list[dict[str, object]]] = {
    "hellaswag": [
        {
            "activity_label": "Cooking",
            "ctx_a": "A cook stands [step] here.",
            "ctx_b": "he",
            "endings": ["a", "b  c"],
            "label": "1",
        }
    ],
    "winogrande": [{"sentence": "The cat saw _ run.", "option1": "it", "option2": "him", "answer": "2"}],
    "multiple-choice": [
        {"question": "What?", "mc1_targets": {"choices": ["a", "b"], "labels": [0, 1]}},
        {"question": "What?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
        {"question": "What?", "choices": ["a", "b"], "answer": 1},
    ],
}
TEXTS = {
    "hellaswag": ChoiceText("Cooking: A cook stands here. He", ("a", "b c"), frozenset({1})),
    "winogrande": GapText("The cat saw ", " run.", ("it", "him"), 1),
    "multiple-choice": ChoiceText("Question: What?\nAnswer:", ("a", "b"), frozenset({1})),
}


@pytest.mark.parametrize("test", ROWS)
def test_rows_of_the_usual_data_sets(test: Test, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS[test])), "utf-8")
    assert read_questions(test, TextSource(file=str(path))) == [TEXTS[test]] * len(ROWS[test])
    path.write_text('{"text": "no question"}', "utf-8")
    with pytest.raises(CalibrationError, match=r"row 1 of rows\.jsonl is no question of this test"):
        read_questions(test, TextSource(file=str(path)))


def test_winogrande_keeps_commas_in_quotes(tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text('0,"A, or ""B"", is _, he said.",x,y,1\n1,No commas _ here,x,y,2', "utf-8")
    first, second = read_questions("winogrande", TextSource(file=str(path)))
    assert first == GapText('A, or ""B"", is ', ", he said.", ("x", "y"), 0)
    assert second == GapText("No commas ", " here", ("x", "y"), 1)


@pytest.mark.parametrize(
    ("test", "content", "expected"),
    [
        ("hellaswag", b"a\n1\nb\nc\nd\n", "5 lines do not make tasks of six lines"),
        ("hellaswag", b"a\n4\nb\nc\nd\ne\n", "line 2 is not the number of an ending: 4"),
        ("hellaswag", b"", "has no question"),
        ("winogrande", b"0,no gap,x,y,1\n", "line 1 of"),
        ("winogrande", b"0,a _,x,y,3\n", "line 1 of"),
        ("multiple-choice", b"", "is no multiple choice file"),
        ("multiple-choice", b"\1\0\0\0\x08\0\0\0\xff\xff\xff\xff", "is no multiple choice file"),
        ("multiple-choice", b"\xff\xff\xff\xff", "is no multiple choice file"),
    ],
)
def test_files_that_are_no_tests(test: Test, content: bytes, expected: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    outcome = hubquant("evaluate", test, str(folder / "model"), "-f", str(tmp_path / "file"))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.is_one_message(), outcome.err
    assert expected in outcome.err


@given(st.binary(max_size=60))
def test_any_bytes_are_tasks_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "tasks.bin"
    choices.write_choices(path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - len(data)] + data)
    try:
        found = read_questions("multiple-choice", TextSource(file=str(path)))
    except CalibrationError:
        return
    assert len(found) == 2


CONFIGS = """---
configs:
- {config_name: easy, data_files: [{split: test, path: easy.jsonl}]}
- {config_name: hard, data_files: [{split: test, path: hard.jsonl}]}
---
"""


def test_data_sets_come_from_the_hub(hub: LocalHub, folder: Path) -> None:
    rows = "\n".join(map(json.dumps, ROWS["hellaswag"] * 3))
    hub.add(
        "Rowan/hellaswag",
        {"train.jsonl": b"\n".join([rows.encode()] * 2), "validation.jsonl": rows.encode()},
        kind="dataset",
    )
    assert measured("hellaswag", folder / "model")["n_tasks"] == 3
    few, many = (json.dumps(ROWS["multiple-choice"][1]) + "\n" for _ in range(2))
    files = {"README.md": CONFIGS.encode(), "easy.jsonl": few.encode(), "hard.jsonl": 5 * many.encode()}
    hub.add("org/choices", files, kind="dataset")
    words = ("multiple-choice", folder / "model.gguf", "-f", "org/choices", "--split", "test", "--config")
    assert [measured(*words, name)["n_tasks"] for name in ("easy", "hard")] == [1, 5]
    outcome = hubquant(
        "evaluate", "winogrande", str(folder / "model"), "-f", "org/choices", *map(str, words[4:]), "easy"
    )
    assert "row 1 of org/choices is no question of this test" in outcome.err
    assert "sentence with a _" in outcome.err


def test_a_file_has_no_configurations(folder: Path) -> None:
    words = ("hellaswag", str(folder / "model"), "-f", str(folder / "hellaswag.txt"))
    assert "has no configurations" in hubquant("evaluate", *words, "--config", "x").err

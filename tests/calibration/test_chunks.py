"""Cutting and mixing, against llama-imatrix's rule and llama.cpp's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hubquant.calibration import build
from hubquant.calibration.bundled import bundled_path
from hubquant.calibration.chunks import allocate
from hubquant.errors import CalibrationError
from hubquant.models import load_tokenizer
from hubquant.models.tiny import build as build_model
from hubquant.recipe.schema import TextSource
from tests.support.conversion import write_gguf
from tests.support.llamacpp import LlamaCpp

TEXT = (
    "Hello <|begin_of_text|> world <|endoftext|>!\n\n  def main(x):\n\treturn x + 12345\n" * 40
    + "Café naïve über — 日本語 テスト 🙂\r\n"
)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end_of_text|>{% endfor %}"
    "{% if not messages[0].content %}{{ raise_exception('empty question') }}{% endif %}"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16}
    return {f: build_model(f, tmp_path_factory.mktemp(f), **small) for f in ("llama", "qwen3")}


@pytest.fixture(scope="module")
def llama(folders: dict[str, Path]) -> Any:
    """Adds BOS."""
    return load_tokenizer(folders["llama"])


@pytest.fixture
def chat_llama(folders: dict[str, Path]) -> Any:
    tokenizer = load_tokenizer(folders["llama"])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def text(path: Path, content: str | bytes) -> TextSource:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return TextSource(file=str(path))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_ids_are_llama_imatrixs(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    write_gguf(folders[family], tmp_path / "model.gguf", "F32")
    with LlamaCpp(tmp_path / "model.gguf") as llama:
        expected = llama.tokenize(TEXT.removesuffix("\n"), add_special=True, parse_special=False)
        bos = llama.tokenize("", add_special=True)
    chunks = build([text(tmp_path / "a.txt", TEXT)], load_tokenizer(folders[family]), 64, 1000, 0)
    rows = torch.tensor(expected[: len(expected) // 64 * 64]).reshape(-1, 64)
    rows[:, : len(bos)] = torch.tensor(bos, dtype=torch.int64)
    assert len(bos) == (1 if family == "llama" else 0)
    assert torch.equal(chunks.ids, rows)
    assert (chunks.chunk_size, chunks.n_tokens, len(chunks)) == (64, rows.numel(), len(rows))
    assert chunks.datasets == ("a.txt",)


def test_one_trailing_newline_is_removed(llama: Any, tmp_path: Path) -> None:
    words = "ab " * 200
    plain, one, two = (build([text(tmp_path / "a.txt", words + end)], llama, 16, 999, 0) for end in ("", "\n", "\n\n"))
    assert plain.fingerprint == one.fingerprint
    assert len(llama(words + "\n")["input_ids"]) == len(llama(words)["input_ids"]) + 1
    assert two.n_tokens >= one.n_tokens


def test_part_of_a_long_text_is_its_beginning(llama: Any) -> None:
    source = TextSource(bundled="calibration")
    part = build([source], llama, 256, 40, 0)
    ids = llama(bundled_path("calibration").read_text("utf-8"), split_special_tokens=True)["input_ids"]
    expected = torch.tensor(ids[: 40 * 256]).reshape(40, 256)
    expected[:, 0] = llama.bos_token_id
    assert torch.equal(part.ids, expected)


def test_text_with_few_tokens_per_character(tmp_path: Path) -> None:
    """The beginning that is tokenized first holds too few tokens."""
    words = " incomprehensibilities antidisestablishmentarianism" * 3000
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.train_from_iterator([words], trainers.BpeTrainer(vocab_size=300, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learnt)
    assert len(tokenizer(words)["input_ids"]) == 6000
    part = build([text(tmp_path / "a.txt", words)], tokenizer, 128, 30, 0)
    assert part.ids.flatten().tolist() == tokenizer(words)["input_ids"][: 30 * 128]


def test_fingerprint_tells_ids_apart(llama: Any, tmp_path: Path) -> None:
    source = text(tmp_path / "a.txt", TEXT)
    first = build([source], llama, 64, 4, 0)
    assert first.fingerprint == build([source], llama, 64, 4, 0).fingerprint
    others = [build([source], llama, 64, 3, 0), build([source], llama, 32, 8, 0)]
    others.append(build([text(tmp_path / "b.txt", "H" + TEXT)], llama, 64, 4, 0))
    assert len({chunks.fingerprint for chunks in [first, *others]}) == 4


def test_sources_are_mixed_by_weight(llama: Any, tmp_path: Path) -> None:
    heavy = text(tmp_path / "a.txt", "aa " * 5000).model_copy(update={"weight": 3.0})
    light = text(tmp_path / "b.txt", "zz " * 5000)
    mixed = build([heavy, light], llama, 32, 40, 0)
    assert mixed.shares == (30, 10)
    z = llama("zz")["input_ids"][-1]
    of_light = (mixed.ids == z).any(1)
    assert int(of_light.sum()) == 10
    # In proportion in every part of the whole.
    assert [int(part.sum()) for part in of_light.reshape(5, 8)] == [2] * 5
    assert torch.equal(mixed.ids[of_light], build([light], llama, 32, 10, 0).ids)


def test_what_a_source_lacks_comes_from_the_others(llama: Any, tmp_path: Path) -> None:
    short = text(tmp_path / "a.txt", "aa " * 100).model_copy(update={"weight": 9.0})
    long = text(tmp_path / "b.txt", "zz " * 5000)
    mixed = build([short, long], llama, 32, 40, 0)
    available = len(llama("aa " * 100)["input_ids"]) // 32
    assert mixed.shares == (available, 40 - available)
    both = build([short, text(tmp_path / "c.txt", "zz " * 200)], llama, 32, 4000, 0)
    assert sum(both.shares) < 40


def test_more_sources_than_chunks(llama: Any, tmp_path: Path) -> None:
    sources = [text(tmp_path / f"{name}.txt", f"{name} " * 500) for name in "abc"]
    assert build(sources, llama, 32, 2, 0).shares == (1, 1, 0)


@pytest.mark.parametrize(
    ("total", "weights", "limits", "shares"),
    [
        (10, [1, 1, 1], [None] * 3, [4, 3, 3]),
        (10, [1, 2], [None, None], [3, 7]),
        (10, [1, 1], [2, None], [2, 8]),
        (10, [1, 1, 2], [1, 2, None], [1, 2, 7]),
        (10, [1, 1], [2, 3], [2, 3]),
        (0, [1], [None], [0]),
        (5, [], [], []),
    ],
)
def test_allocate(total: int, weights: list[float], limits: list[int | None], shares: list[int]) -> None:
    assert allocate(total, weights, limits) == shares


def conversations(path: Path, *rows: Any, field: str = "messages") -> TextSource:
    path.write_text("".join(json.dumps({field: row}) + "\n" for row in rows))
    return TextSource(file=str(path), field=field, chat_template=True)


def test_conversations(chat_llama: Any, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hello world"}, {"role": "assistant", "content": "Yes <|end_of_text|>?"}]
    source = conversations(tmp_path / "a.jsonl", *[talk] * 20)
    chunks = build([source], chat_llama, 16, 999, 0)
    one = chat_llama.apply_chat_template(talk, tokenize=False)
    ids = chat_llama(one * 20, add_special_tokens=False)["input_ids"]
    expected = torch.tensor(ids[: len(ids) // 16 * 16]).reshape(-1, 16)
    expected[:, 0] = chat_llama.bos_token_id
    assert ids[:2].count(chat_llama.bos_token_id) == 1
    assert ids.count(chat_llama.eos_token_id) == 60
    assert torch.equal(chunks.ids, expected)


def test_names_of_sharegpt(chat_llama: Any, tmp_path: Path) -> None:
    known = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "system", "content": "c"},
    ]
    shared = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "system", "value": "c"}]
    first = build([conversations(tmp_path / "a.jsonl", *[known] * 20)], chat_llama, 16, 9, 0)
    second = conversations(tmp_path / "b.jsonl", *[shared] * 20, field="conversations")
    # A field with a list of messages needs no chat_template.
    second = second.model_copy(update={"chat_template": False})
    assert build([second], chat_llama, 16, 9, 0).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([{"role": "user"}], "row 2 of a.jsonl is no conversation"),
        ([], "row 2 of a.jsonl is no conversation"),
        (7, "row 2 of a.jsonl is no conversation"),
        (["hi"], "row 2 of a.jsonl is no conversation"),
        ([{"role": "user", "content": ""}], "does not fit the model's chat template: empty question"),
    ],
)
def test_broken_conversations(chat_llama: Any, tmp_path: Path, row: Any, message: str) -> None:
    source = conversations(tmp_path / "a.jsonl", [{"role": "user", "content": "fine"}], row)
    with pytest.raises(CalibrationError, match=message):
        build([source], chat_llama, 16, 9, 0)


def test_model_without_a_chat_template(llama: Any, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="has no chat template"):
        build([conversations(tmp_path / "a.jsonl", "hello")], llama, 16, 9, 0)


def test_too_little_text(llama: Any, tmp_path: Path) -> None:
    for content in ("", "\n"):
        with pytest.raises(CalibrationError, match=r"a\.txt is empty"):
            build([text(tmp_path / "a.txt", content)], llama, 512, 9, 0)
    n = len(llama("hello world " * 20)["input_ids"])
    with pytest.raises(CalibrationError, match=f"too short: it holds {n} tokens, and one chunk takes 512"):
        build([text(tmp_path / "a.txt", "hello world " * 20)], llama, 512, 9, 0)
    with pytest.raises(CalibrationError, match=f"{n} tokens, and {2 * (n - 1)} are needed"):
        build([text(tmp_path / "a.txt", "hello world " * 20)], llama, n - 1, 9, 0)
    assert len(build([text(tmp_path / "a.txt", "hello world " * 20)], llama, n - 1, 1, 0)) == 1
    with pytest.raises(CalibrationError, match="no text"):
        build([], llama, 16, 9, 0)

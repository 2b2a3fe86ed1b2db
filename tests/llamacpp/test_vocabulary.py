"""Vocabularies compare themselves in llama.cpp with the tokenizer they were read from."""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from hubquant.errors import TokenizerError
from hubquant.llamacpp.process import HOW_TO_ADD
from hubquant.llamacpp.texts import TEXTS, texts_without
from hubquant.llamacpp.vocabulary import VocabularyCheck, check_vocabulary
from hubquant.models.load import load_tokenizer
from hubquant.models.tiny import TOKENIZERS
from hubquant.vocab import Vocabulary, read_vocabulary

pytest.importorskip("xllamacpp")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Vocabulary, Any]:
    folder = tmp_path_factory.mktemp("llama")
    TOKENIZERS["llama"]().save_pretrained(folder)
    return read_vocabulary(folder, {}), load_tokenizer(folder)


def test_texts_are_in_normal_form_c() -> None:
    assert texts_without(()) == unicodedata.normalize("NFC", texts_without(()))
    assert texts_without({"marks"}) == texts_without(()).replace(TEXTS["marks"] + "\n", "")


def test_same_tokens(tokenizer: tuple[Vocabulary, Any], capfd: pytest.CaptureFixture[str]) -> None:
    check = check_vocabulary(*tokenizer)
    assert check == VocabularyCheck(n_texts=len(TEXTS) + 1)
    assert (str(check), check.note) == (f"same tokens in llama.cpp for {len(TEXTS) + 1} texts", None)
    assert capfd.readouterr() == ("", "")


def test_another_pre_tokenizer_is_noticed(tokenizer: tuple[Vocabulary, Any]) -> None:
    vocabulary, source = tokenizer
    with pytest.raises(TokenizerError, match=r"gives other tokens in llama\.cpp than in transformers") as raised:
        check_vocabulary(replace(vocabulary, pre="gpt-2"), source)
    assert "token 30 of the text with English, after '30 o'" in str(raised.value)
    assert "--pre-tokenizer" in str(raised.value.hint)


def test_known_differences_are_noted(tokenizer: tuple[Vocabulary, Any]) -> None:
    vocabulary, source = tokenizer
    check = check_vocabulary(replace(vocabulary, pre="tekken"), source, texts={"marks": "12345"})
    assert check == VocabularyCheck(n_texts=2, differing=("marks",))
    assert str(check) == "same tokens in llama.cpp for 1 of 2 texts"
    assert check.note == "llama.cpp is known to split some text otherwise than this tokenizer: marks"


def test_special_tokens_are_compared(tokenizer: tuple[Vocabulary, Any]) -> None:
    vocabulary, source = tokenizer
    types = [*vocabulary.types]
    types[300] = int(TokenType.CONTROL)
    with pytest.raises(TokenizerError, match="of the text with special tokens"):
        check_vocabulary(replace(vocabulary, types=tuple(types)), source)


def test_numbers_left_out_before_an_added_token(tmp_path: Path) -> None:
    """transformers gives <tool> the first free number, and the file would have another."""
    tokenizer = TOKENIZERS["llama"]()
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<tool>": len(tokenizer) + 9}))
    vocabulary = read_vocabulary(tmp_path, {})
    with pytest.raises(TokenizerError, match=f"<tool> is {len(tokenizer) + 9} in .* makes it {len(tokenizer)}"):
        check_vocabulary(vocabulary, load_tokenizer(tmp_path))


def test_a_crash_is_an_error(
    tokenizer: tuple[Vocabulary, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xllamacpp.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TokenizerError, match="cannot use the tokenizer as it would be written: it crashed"):
        check_vocabulary(*tokenizer)


def test_without_xllamacpp(tokenizer: tuple[Vocabulary, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else find(name))
    check = check_vocabulary(*tokenizer)
    assert str(check) == "not compared with llama.cpp: xllamacpp is not installed"
    assert check.note == f"the tokenizer is {check}; {HOW_TO_ADD}"


def test_in_normal_form_only(tmp_path: Path) -> None:
    """Qwen's tokenizers normalize to NFC and llama.cpp does not: other forms are no part of the promise."""
    TOKENIZERS["qwen2"]().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["normalizer"] == {"type": "NFC"}
    vocabulary, source = read_vocabulary(tmp_path, {}), load_tokenizer(tmp_path)
    assert check_vocabulary(vocabulary, source).differing == ()
    with pytest.raises(TokenizerError, match="of the text with decomposed"):
        check_vocabulary(vocabulary, source, texts={"decomposed": "cafe\u0301"})


def test_several_tokens_before_a_text(tmp_path: Path) -> None:
    """GLM puts two before; llama.cpp puts none, and the note says so."""
    TOKENIZERS["llama"]().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    parts = json.loads(path.read_text())
    processor = parts["post_processor"]
    processor["single"].insert(0, {"SpecialToken": {"id": "<|end_of_text|>", "type_id": 0}})
    processor["special_tokens"]["<|end_of_text|>"] = {
        "id": "<|end_of_text|>",
        "ids": [1],
        "tokens": ["<|end_of_text|>"],
    }
    path.write_text(json.dumps(parts))
    vocabulary, source = read_vocabulary(tmp_path, {}), load_tokenizer(tmp_path)
    assert source("")["input_ids"] == [1, 0]
    assert not vocabulary.add_bos
    check = check_vocabulary(vocabulary, source)
    assert check.left_out == ("<|end_of_text|>", "<|begin_of_text|>")
    assert check.note == (
        "llama.cpp does not put <|end_of_text|> <|begin_of_text|> around a text: prompts must hold them"
    )

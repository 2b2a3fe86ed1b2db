"""Added tokens and conversations are compared with llama.cpp; and names that it looks at."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hubquant.errors import TokenizerError
from hubquant.llamacpp.special_texts import conversation
from hubquant.llamacpp.vocabulary import VocabularyCheck, check_vocabulary
from hubquant.models.load import load_tokenizer
from hubquant.models.tiny import TOKENIZERS
from hubquant.vocab import ModelFacts, read_vocabulary
from hubquant.vocab.phi3 import fitting_name
from tests.vocab.test_files import slow

pytest.importorskip("xllamacpp")

CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
PHI3 = ("<s>", "</s>", "<unk>", "<|endoftext|>", "<|user|>", "<|end|>")


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def with_tokens(folder: Path, *texts: str, template: str | None = CHAT, **options: Any) -> Path:
    from tokenizers import AddedToken

    tokenizer = TOKENIZERS["llama"]()
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False, **options) for text in texts])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def check(folder: Path, rows: int | None = None, name: str = "model") -> VocabularyCheck:
    vocabulary = read_vocabulary(folder, {}, ModelFacts(rows=rows))
    return check_vocabulary(vocabulary, load_tokenizer(folder), name=name, texts={"English": "The quick fox"})


def test_a_conversation_and_every_token(tmp_path: Path) -> None:
    many = [f"<|token_{number}|>" for number in range(500)]
    one = "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}" + CHAT
    found = check(with_tokens(tmp_path, "<|im_start|>", "<|im_end|>", *many, "\n\n\n", ",,,", template=one))
    assert found == VocabularyCheck(n_texts=1 + 1 + 2 + 1)
    assert found.note is None


def test_the_last_of_many_tokens(tmp_path: Path) -> None:
    """A token that llama.cpp does not look for: its type is lost."""
    many = [f"<|token_{number}|>" for number in range(500)]
    folder = with_tokens(tmp_path, *many, template=None)
    vocabulary = read_vocabulary(folder, {})
    types = (*vocabulary.types[:-1], 3)
    texts = (*vocabulary.tokens[:-1], "<|token|>")
    with pytest.raises(TokenizerError, match="of the text with special tokens"):
        check_vocabulary(replace(vocabulary, tokens=texts, types=types), load_tokenizer(folder), texts={})


def test_tokens_without_rows_in_a_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found without llama.cpp too."""
    folder = with_tokens(tmp_path, "<|im_start|>", "<|im_end|>")
    rows = len(load_tokenizer(folder)) - 2
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else find(name))
    with pytest.raises(TokenizerError, match=r"has no embedding for: <\|im_start\|> <\|im_end\|>"):
        check(folder, rows)


def test_white_space_that_transformers_drops(tmp_path: Path) -> None:
    folder = with_tokens(tmp_path, "<|im_start|>", "<|im_end|>", rstrip=True)
    found = check(folder)
    assert found.beside_special == ("a conversation",)
    assert found.note == (
        "llama.cpp keeps or adds white space beside special tokens where this tokenizer does not, in a conversation"
    )


def test_a_space_before_the_first_part_only(tmp_path: Path) -> None:
    """Mistral's: llama.cpp puts one after every special token."""
    from hubquant.vocab import build_tokenizer

    build_tokenizer(read_vocabulary(slow(tmp_path / "slow"), {})).save_pretrained(tmp_path)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    edit(tmp_path / "tokenizer.json", lambda parts: {**parts, "normalizer": None, "pre_tokenizer": metaspace})
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}<|im_start|> {{ m.content }}</s>{% endfor %}")
    assert "a conversation" in check(tmp_path).beside_special


def test_templates_that_cannot_be_rendered(tmp_path: Path) -> None:
    folder = with_tokens(tmp_path, template="{{ raise_exception('only with tools') }}")
    text, why = conversation(load_tokenizer(folder))
    assert (text, why) == (None, "a conversation does not fit the model's chat template: only with tools")
    assert VocabularyCheck(not_rendered=why).note == f"the chat template was not compared: {why}"


@pytest.mark.parametrize(
    ("name", "strips", "fitting"),
    [
        ("Tiny Llama Distilled From Phi3", False, "Tiny Llama Distilled From Phi 3"),
        ("my-PHI-3", False, "my-PHI 3"),
        ("Phi 3 Mini", False, "Phi 3 Mini"),
        ("Phi 3 Mini", True, "Phi-3 Mini"),
        ("Phi3.5", True, "Phi3.5"),
        ("Assistant", True, "Assistant (Phi-3)"),
    ],
)
def test_names(name: str, strips: bool, fitting: str) -> None:
    assert fitting_name(name, strips=strips) == fitting


def test_phi3_by_its_name(tmp_path: Path) -> None:
    """As published: white space is dropped after all special tokens but three."""
    folder = with_tokens(tmp_path, *PHI3, template="{{ messages[0].content }}<|end|>\n<|user|>\n a<s> b")

    def drop(parts: Any) -> Any:
        kept = [{**each, "rstrip": each["content"] not in PHI3[:1] + PHI3[2:4]} for each in parts["added_tokens"]]
        return {**parts, "added_tokens": kept}

    edit(folder / "tokenizer.json", drop)
    edit(
        folder / "tokenizer_config.json",
        lambda settings: {**settings, "bos_token": "<s>", "eos_token": "<|endoftext|>"},
    )
    assert read_vocabulary(folder, {}).strips_as_phi3
    assert check(folder, name="Phi-3 Mini").beside_special == ()


def test_a_phi3_name_without_its_tokens(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"general\.name, 'my phi3', holds Phi-3's"):
        check(with_tokens(tmp_path, template=None), name="my phi3")

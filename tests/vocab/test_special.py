"""Special tokens, bos and eos, chat templates, and vocabularies out of foreign or damaged metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import Keys

from hubquant.errors import NotSupportedYet, TokenizerError
from hubquant.gguf_file import KV, Metadata
from hubquant.gguf_file.metadata import i32s, string, strings, u32
from hubquant.models.tiny import TOKENIZERS
from hubquant.vocab import ModelFacts, Vocabulary, build_tokenizer, read_vocabulary

T = Keys.Tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    TOKENIZERS["llama"]().save_pretrained(tmp_path)
    return tmp_path


def configure(folder: Path, name: str = "tokenizer_config.json", **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


def template(*parts: str) -> dict[str, Any]:
    known = {"<|begin_of_text|>": 0, "<|end_of_text|>": 1, "!": 2}
    single = [
        {"Sequence": {"id": "A", "type_id": 0}} if part == "A" else {"SpecialToken": {"id": part, "type_id": 0}}
        for part in parts
    ]
    specials = {text: {"id": text, "ids": [id], "tokens": [text]} for text, id in known.items()}
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": specials}


def test_where_ids_come_from(folder: Path) -> None:
    parts = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**parts, "post_processor": None}))
    config = {"bos_token_id": 5, "pad_token_id": 7, "eos_token_id": [6, 8]}
    assert read_vocabulary(folder, config).specials == {"bos": 0, "eos": 1, "pad": 7}
    configure(folder, bos_token=None, eos_token={"content": "!"}, pad_token="absent")
    assert read_vocabulary(folder, config).specials == {"bos": 5, "eos": 2, "pad": 384}  # transformers adds it
    assert read_vocabulary(folder, config, ModelFacts(rows=384)).specials == {"bos": 5, "eos": 2, "pad": 7}
    configure(folder, pad_token=None)
    configure(folder, eos_token=None)
    assert read_vocabulary(folder, config | {"pad_token_id": -1}).specials == {"bos": 5, "eos": 6}
    assert read_vocabulary(folder, {"text_config": config}).specials == {"bos": 5, "eos": 6, "pad": 7}
    assert read_vocabulary(folder, {"bos_token_id": 10**9}).specials == {}


def test_other_stops_of_generation(folder: Path) -> None:
    tokenizer = TOKENIZERS["llama"]()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|eom_id|>", "<|eot_id|>"]})
    tokenizer.save_pretrained(folder)
    n = len(tokenizer)
    configure(folder, "generation_config.json", eos_token_id=[1, n - 2, n - 1])
    assert read_vocabulary(folder, {}).specials == {"bos": 0, "eos": 1, "eom": n - 2, "eot": n - 1}
    configure(folder, "generation_config.json", eos_token_id=[1, 7, 8])
    assert read_vocabulary(folder, {}).specials == {"bos": 0, "eos": 1, "eot": 7, "eom": 8}


def test_what_is_put_around_a_text(folder: Path) -> None:
    path = folder / "tokenizer.json"
    parts = json.loads(path.read_text())

    def around(processor: Any, **config: Any) -> tuple[bool, bool, dict[str, int]]:
        path.write_text(json.dumps({**parts, "post_processor": processor}))
        configure(folder, **config)
        vocabulary = read_vocabulary(folder, {})
        return vocabulary.add_bos, vocabulary.add_eos, dict(vocabulary.specials)

    bos, eos = "<|begin_of_text|>", "<|end_of_text|>"
    assert around(template(bos, "A")) == (True, False, {"bos": 0, "eos": 1})
    assert around(template("A", eos)) == (False, True, {"bos": 0, "eos": 1})
    assert around(template(bos, "A", "!")) == (True, True, {"bos": 0, "eos": 2, "eot": 1})
    sequence = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(bos, "A")]}
    assert around(sequence, add_bos_token=False)[:2] == (True, False)
    assert around({"type": "ByteLevel"}, add_bos_token=True, add_eos_token=True)[:2] == (True, True)
    assert around(None, add_bos_token=False)[:2] == (False, True)
    assert around(None, add_bos_token=True, bos_token=None)[:2] == (False, True)
    assert around(template(bos, "!", "A", eos)) == (False, True, {"eos": 1})
    with pytest.raises(TokenizerError, match="post-processor cannot be read"):
        around(template("unheard of", "A"))


def test_chat_templates(folder: Path) -> None:
    configure(folder, chat_template=[{"name": "default", "template": "D"}, {"name": "tool-use", "template": "T"}])
    vocabulary = read_vocabulary(folder, {})
    metadata = vocabulary.metadata()
    assert metadata[T.CHAT_TEMPLATE].value == "D"
    assert metadata[T.CHAT_TEMPLATES].value == ("tool_use",)
    assert metadata["tokenizer.chat_template.tool_use"].value == "T"
    assert Vocabulary.from_metadata(metadata).chat_templates == vocabulary.chat_templates
    assert build_tokenizer(Vocabulary.from_metadata(metadata)).chat_template == {"default": "D", "tool_use": "T"}

    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/rag.jinja").write_text("R")
    assert read_vocabulary(folder, {}).chat_templates["rag"] == "R"
    configure(folder, chat_template=None)
    (folder / "additional_chat_templates/rag.jinja").unlink()
    again = build_tokenizer(Vocabulary.from_metadata(read_vocabulary(folder, {}).metadata()))
    message = [{"role": "user", "content": "hi"}]
    assert again.apply_chat_template(message, tokenize=False) == "<|begin_of_text|>hi"


FOREIGN: Metadata = {
    T.MODEL: string("gpt2"),
    T.PRE: string("llama3"),
    T.LIST: strings(["a", "b", "ab", "<s>"]),
    T.MERGES: strings(["a b"]),
    T.BOS_ID: u32(3),
}


def test_metadata_of_other_writers() -> None:
    """Keys that are missing mean what llama.cpp takes them to mean."""
    vocabulary = Vocabulary.from_metadata(FOREIGN)
    assert vocabulary.types == (1, 1, 1, 1)
    assert vocabulary.add_bos
    assert build_tokenizer(vocabulary)("ab")["input_ids"] == [3, 2]
    assert not Vocabulary.from_metadata(FOREIGN | {T.PRE: string("qwen2")}).add_bos
    sentencepiece = {T.MODEL: string("llama"), T.LIST: strings(["<unk>", "<s>", "</s>"]), T.TOKEN_TYPE: i32s([2, 3, 3])}
    assert Vocabulary.from_metadata(sentencepiece).add_bos
    assert Vocabulary.from_metadata(sentencepiece).add_space_prefix


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({T.MODEL: string("rwkv8")}, NotSupportedYet, "'rwkv8'"),
        ({T.MODEL: string("t5"), T.PRECOMPILED_CHARSMAP: i32s([300])}, TokenizerError, "not a list of bytes"),
        ({T.MODEL: u32(1)}, TokenizerError, "missing or of another type"),
        ({T.LIST: string("a")}, TokenizerError, "not a list of strings"),
        ({T.LIST: i32s([1])}, TokenizerError, "not a list of strings"),
        ({T.TOKEN_TYPE: i32s([1])}, TokenizerError, "does not have 4 numbers"),
        ({T.BOS_ID: string("x")}, TokenizerError, "of another type"),
    ],
)
def test_damaged_metadata(changes: dict[str, KV], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Vocabulary.from_metadata(FOREIGN | changes)


def test_unknown_pre_tokenizer_of_a_file() -> None:
    vocabulary = Vocabulary.from_metadata(FOREIGN | {T.PRE: string("whitespace")})
    with pytest.raises(TokenizerError, match="'whitespace' is not known"):
        build_tokenizer(vocabulary)

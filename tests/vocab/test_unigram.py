"""SentencePiece Unigram: the same ids from sentencepiece, transformers, the rebuilt tokenizer and llama.cpp."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from gguf import Keys, TokenType
from transformers import AutoTokenizer

from hubquant.errors import NotSupportedYet, TokenizerError
from hubquant.llamacpp.texts import TEXTS
from hubquant.llamacpp.vocabulary import check_vocabulary
from hubquant.models.tiny import CORPUS
from hubquant.vocab import ModelFacts, Vocabulary, build_tokenizer, read_vocabulary
from tests.support.llamacpp import LlamaCpp
from tests.support.vocab_gguf import write_vocab_gguf

LINES = [line for text in [*CORPUS, *TEXTS.values(), *TEXTS.values()] for line in text.split("\n")]
T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
MORE = ("", "ＦＵＬＬ ｗｉｄｔｈ ﬁ ①", "e\u0301 Å", "\u3000ideographic\u3000space")


def train(**options: Any) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=written,
        num_threads=1,
        minloglevel=2,
        hard_vocab_limit=False,
        **({"model_type": "unigram", "vocab_size": 700, "character_coverage": 0.99} | options),
    )
    return written.getvalue()


@pytest.fixture(scope="module")
def model() -> bytes:
    return train()


def rebuilt(vocabulary: Vocabulary) -> Any:
    again = Vocabulary.from_metadata(vocabulary.metadata())
    assert again == vocabulary
    return build_tokenizer(again)


def write_older(folder: Path, model: bytes, kind: str) -> Path:
    """A repository as it was before there was tokenizer.json."""
    name, architecture = {"T5": ("spiece.model", "t5"), "XLMRoberta": ("sentencepiece.bpe.model", "xlm-roberta")}[kind]
    folder.mkdir()
    (folder / name).write_bytes(model)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": f"{kind}Tokenizer"}))
    (folder / "config.json").write_text(json.dumps({"model_type": architecture}))
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        {"normalization_rule_name": "nmt_nfkc_cf", "user_defined_symbols": ["<sep>"]},
    ],
    ids=["usual", "identity", "case folding"],
)
def test_model_file(tmp_path: Path, options: dict[str, Any]) -> None:
    model = train(**options)
    (tmp_path / "tokenizer.model").write_bytes(model)
    vocabulary = read_vocabulary(tmp_path, {}, ModelFacts(rows=800))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert vocabulary.scores[: len(processor)] == tuple(processor.get_score(id) for id in range(len(processor)))
    assert vocabulary.specials == {"unk": 0, "bos": 1, "eos": 2}
    assert vocabulary.types[:3] == (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL)
    assert bool(vocabulary.charsmap) == (options.get("normalization_rule_name") != "identity")
    again = rebuilt(vocabulary)
    with LlamaCpp(write_vocab_gguf(tmp_path / "model.gguf", vocabulary)) as llama:
        for text in (*TEXTS.values(), *MORE):
            expected = processor.encode(text)
            assert llama.tokenize(text) == expected
            assert again(text)["input_ids"] == expected


@pytest.mark.parametrize("kind", ["T5", "XLMRoberta"])
def test_families(tmp_path: Path, kind: str) -> None:
    options = T5_IDS if kind == "T5" else {}
    folder = write_older(tmp_path / "old", train(**options), kind)
    source = AutoTokenizer.from_pretrained(folder)
    source.save_pretrained(tmp_path / "new")
    vocabulary = read_vocabulary(tmp_path / "new", {}, ModelFacts(n_token_types=1))
    assert read_vocabulary(folder, {}, ModelFacts(n_token_types=1)) == vocabulary
    assert (vocabulary.add_bos, vocabulary.add_eos) == (kind == "XLMRoberta", True)
    assert vocabulary.metadata()[Keys.Tokenizer.MODEL].value == "t5"
    again = rebuilt(vocabulary)
    special = "<extra_id_0>" if kind == "T5" else "<mask>"
    with LlamaCpp(write_vocab_gguf(tmp_path / "model.gguf", vocabulary)) as llama:
        for text in (*TEXTS.values(), *MORE, f"the{special}fox"):
            expected = source(text)["input_ids"]
            assert llama.tokenize(text) == expected
            assert again(text)["input_ids"] == expected
            assert again.decode(expected) == source.decode(expected)


def test_bytes_of_umt5(tmp_path: Path) -> None:
    """Unknown text in bytes: kept for text encoders, although llama.cpp writes it as one token, which is said."""
    model = train(byte_fallback=True, character_coverage=0.98, **T5_IDS)
    (tmp_path / "tokenizer.model").write_bytes(model)
    facts = ModelFacts(architecture="t5encoder")
    vocabulary = read_vocabulary(tmp_path, {"eos_token_id": 1}, facts)
    assert vocabulary.types.count(TokenType.BYTE) == 256
    again = rebuilt(vocabulary)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in (*TEXTS.values(), *MORE):
        assert again(text, add_special_tokens=False)["input_ids"] == processor.encode(text)
    again.save_pretrained(tmp_path / "new")
    assert read_vocabulary(tmp_path / "new", {}, facts).types == vocabulary.types
    checked = check_vocabulary(vocabulary, again)
    assert "emoji" in checked.differing
    assert "English" not in checked.differing
    folder = write_older(tmp_path / "old", model, "T5")  # of which transformers makes a tokenizer without bytes
    older = read_vocabulary(folder, {}, ModelFacts(architecture="t5encoder"))
    assert older.types.count(TokenType.BYTE) == 256
    assert check_vocabulary(older, AutoTokenizer.from_pretrained(folder)).differing == ()


def test_what_llama_cpp_cannot_do(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(byte_fallback=True))
    with pytest.raises(NotSupportedYet, match="Unigram tokenizers with bytes"):
        read_vocabulary(tmp_path, {})
    path.write_bytes(train(treat_whitespace_as_suffix=True))
    with pytest.raises(NotSupportedYet, match="spaces at the end of words"):
        read_vocabulary(tmp_path, {})
    path.unlink()
    AutoTokenizer.from_pretrained(write_older(tmp_path / "old", model, "XLMRoberta")).save_pretrained(tmp_path)
    parts = json.loads((tmp_path / "tokenizer.json").read_text())
    unknown = {**parts["model"], "unk_id": None}
    words = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"normalizer": {"type": "NFKC"}}, "it has NFKC then WhitespaceSplit then Metaspace"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace; Unigram has"),
        ({"pre_tokenizer": words}, "Metaspace; Unigram has"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "table of replacements cannot be read"),
        ({"model": unknown}, "no token for unknown text"),
        ({"model": {**parts["model"], "vocab": [["a", 0.0], ["a", 1.0]]}}, "have the same text"),
        ({"model": {**parts["model"], "vocab": [["a", "b"]]}}, "no list of pieces and scores"),
    ]
    for changes, message in bad:
        (tmp_path / "tokenizer.json").write_text(json.dumps({**parts, **changes}))
        with pytest.raises(TokenizerError, match=message):
            read_vocabulary(tmp_path, {})

"""WordPiece: the same ids from transformers, the rebuilt tokenizer and llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import Keys, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hubquant.errors import TokenizerError
from hubquant.llamacpp.texts import TEXTS
from hubquant.models.tiny import CORPUS
from hubquant.vocab import ModelFacts, Vocabulary, build_tokenizer, known_differences, read_vocabulary
from tests.support.llamacpp import LlamaCpp
from tests.support.vocab_gguf import write_vocab_gguf

SPECIALS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def train(folder: Path, *, lowercase: bool = True, strip_accents: bool | None = None) -> Path:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=[*SPECIALS.values()], show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, *TEXTS.values(), *TEXTS.values()], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, **{f"{role}_token": text for role, text in SPECIALS.items()}).save_pretrained(
        folder
    )
    return folder


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("lowercase", "strip_accents", "differing"),
    [
        (True, None, {"Korean", "marks"}),
        (False, None, set()),
        (True, False, {"Latin capitals"}),
        (False, True, {"Korean", "marks"}),
    ],
)
def test_every_normalization(tmp_path: Path, lowercase: bool, strip_accents: bool | None, differing: set[str]) -> None:
    train(tmp_path, lowercase=lowercase, strip_accents=strip_accents)
    source = AutoTokenizer.from_pretrained(tmp_path)
    vocabulary = read_vocabulary(tmp_path, {}, ModelFacts(n_token_types=2))
    assert Vocabulary.from_metadata(vocabulary.metadata()) == vocabulary
    assert vocabulary.specials == {"unk": 1, "sep": 3, "pad": 0, "mask": 4, "bos": 2, "eos": 3}
    again = build_tokenizer(Vocabulary.from_metadata(vocabulary.metadata()))
    with LlamaCpp(write_vocab_gguf(tmp_path / "model.gguf", vocabulary)) as llama:
        found = {name for name, text in TEXTS.items() if llama.tokenize(text) != source(text)["input_ids"]}
    assert found == differing == known_differences(vocabulary)
    for text in (*TEXTS.values(), "", "the [MASK] fox[SEP]"):
        expected = source(text)["input_ids"]
        assert again(text)["input_ids"] == expected
        assert again.decode(expected) == source.decode(expected)


def test_keys(tmp_path: Path) -> None:
    train(tmp_path)
    ids = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    vocabulary = read_vocabulary(tmp_path, {}, ModelFacts(rows=len(ids) + 2, n_token_types=2))
    assert vocabulary.tokens[:5] == (*SPECIALS.values(),)
    assert vocabulary.tokens[ids["fox"]] == "▁fox"
    assert vocabulary.tokens[ids["##s"]] == "s"
    assert vocabulary.tokens[-2:] == (f"[PAD{len(ids)}]", f"[PAD{len(ids) + 1}]")
    assert vocabulary.types[:5] == (TokenType.CONTROL,) * 5
    metadata = vocabulary.metadata()
    assert metadata[Keys.Tokenizer.MODEL].value == "bert"
    assert metadata[Keys.Tokenizer.TOKEN_TYPE_COUNT].value == 2
    assert metadata[Keys.Tokenizer.ADD_SEP].value is True
    assert metadata["tokenizer.ggml.normalizer.lowercase"].value is True
    assert build_tokenizer(Vocabulary.from_metadata(metadata)).cls_token == "[CLS]"


def test_added_tokens_and_an_old_folder(tmp_path: Path) -> None:
    train(tmp_path / "new")
    source = AutoTokenizer.from_pretrained(tmp_path / "new")
    source.add_tokens([AddedToken("<tool>", special=False), AddedToken("[X]", special=True)])
    source.save_pretrained(tmp_path / "new")
    vocabulary = read_vocabulary(tmp_path / "new", {})
    assert vocabulary.types[-2:] == (TokenType.USER_DEFINED, TokenType.CONTROL)
    text = "the <tool> fox [X] jumps"
    expected = source(text)["input_ids"]
    assert build_tokenizer(Vocabulary.from_metadata(vocabulary.metadata()))(text)["input_ids"] == expected
    with LlamaCpp(write_vocab_gguf(tmp_path / "model.gguf", vocabulary)) as llama:
        assert llama.tokenize(text) == expected

    old = tmp_path / "old"
    old.mkdir()
    tokens = json.loads((tmp_path / "new/tokenizer.json").read_text())["model"]["vocab"]
    (old / "vocab.txt").write_text("\n".join(sorted(tokens, key=tokens.__getitem__)) + "\n")
    (old / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    (old / "config.json").write_text(json.dumps({"model_type": "bert"}))
    again = build_tokenizer(Vocabulary.from_metadata(read_vocabulary(old, {}).metadata()))
    assert again(TEXTS["English"])["input_ids"] == source(TEXTS["English"])["input_ids"]


def test_what_llama_cpp_cannot_do(tmp_path: Path) -> None:
    train(tmp_path)
    parts = json.loads((tmp_path / "tokenizer.json").read_text())
    bad: list[tuple[dict[str, Any], str]] = [
        ({"normalizer": {**parts["normalizer"], "handle_chinese_chars": False}}, "it has BertNormalizer then Bert"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "it has BertNormalizer then Whitespace"),
        ({"post_processor": None}, "a token before and one after every text"),
        ({"model": {**parts["model"], "continuing_subword_prefix": "@@"}}, "the inside of words with '@@'"),
        ({"model": {**parts["model"], "unk_token": "?!"}}, "no token for unknown text"),
        ({"model": {**parts["model"], "vocab": {**parts["model"]["vocab"], "##▁fox": 899}}}, "the same text"),
    ]
    for changes, message in bad:
        edit(tmp_path, **{**parts, **changes})
        with pytest.raises(TokenizerError, match=message):
            read_vocabulary(tmp_path, {})

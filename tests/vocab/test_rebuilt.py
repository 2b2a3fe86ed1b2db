"""A tokenizer that was built from a GGUF file becomes the same vocabulary again; and files of older tools."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from gguf import Keys, TokenType

from hubquant.errors import TokenizerError
from hubquant.llamacpp.texts import TEXTS
from hubquant.models.tiny import CORPUS, TOKENIZERS
from hubquant.vocab import ModelFacts, Vocabulary, build_tokenizer, read_vocabulary, with_pre_tokenizer
from hubquant.vocab.pretokenizers import structure_of
from tests.support.llamacpp import LlamaCpp
from tests.support.vocab_gguf import write_vocab_gguf
from tests.vocab.test_byte_level import ids, train

T = Keys.Tokenizer


def sentencepiece_vocabulary(folder: Path, **options: Any) -> Vocabulary:
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*CORPUS, *TEXTS.values()]),
        model_writer=made,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **({"vocab_size": 600, "character_coverage": 0.98, "user_defined_symbols": ["<sep>"]} | options),
    )
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    vocabulary = read_vocabulary(folder, {}, ModelFacts(rows=750))
    (folder / "tokenizer.model").unlink()
    return vocabulary


def of_family(family: str, folder: Path) -> Vocabulary:
    TOKENIZERS[family]().save_pretrained(folder)
    return read_vocabulary(folder, {})


IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
BPE = {"model_type": "bpe", "byte_fallback": True, **IDENTITY}
KINDS = {
    "byte-level": lambda folder: of_family("llama", folder),
    "byte-level with NFC": lambda folder: of_family("qwen2", folder),
    "WordPiece": lambda folder: of_family("bert", folder),
    "SentencePiece BPE": lambda folder: sentencepiece_vocabulary(folder, **BPE),
    "SentencePiece BPE without prefix": lambda folder: sentencepiece_vocabulary(folder, **BPE, add_dummy_prefix=False),
    "Unigram": lambda folder: sentencepiece_vocabulary(folder),
    "Unigram as it stands": lambda folder: sentencepiece_vocabulary(folder, **IDENTITY),
}


@pytest.mark.parametrize("kind", KINDS)
def test_read_again(tmp_path: Path, kind: str) -> None:
    (tmp_path / "first").mkdir()
    first = KINDS[kind](tmp_path / "first")
    tokenizer = build_tokenizer(Vocabulary.from_metadata(first.metadata()))
    tokenizer.save_pretrained(tmp_path / "again")
    again = read_vocabulary(tmp_path / "again", {}, ModelFacts(rows=len(first.tokens)))
    roles = {role: again.specials[role] for role in first.specials}
    types = tuple(TokenType.NORMAL if type == TokenType.UNUSED else type for type in first.types)  # padding has a name
    assert replace(again, scores=first.scores, specials=roles) == replace(first, types=types)
    if first.model == "t5":  # SentencePiece BPE's are made of the order of merges
        normal = [id for id, type in enumerate(first.types) if type == TokenType.NORMAL]
        assert [again.scores[id] for id in normal] == pytest.approx([first.scores[id] for id in normal])
    for text in TEXTS.values():
        assert ids(build_tokenizer(again), text) == ids(tokenizer, text)


def test_a_file_without_a_pre_tokenizer(tmp_path: Path) -> None:
    """Of a time before llama.cpp knew names: it says "default" and splits in its own way."""
    folder = train(structure_of("llama-bpe"), tmp_path)
    metadata = read_vocabulary(folder, {}).metadata()
    older = {key: kv for key, kv in metadata.items() if key not in (T.PRE, T.ADD_BOS, T.ADD_EOS)}
    vocabulary = Vocabulary.from_metadata(older)
    assert vocabulary.pre == "default"
    again = build_tokenizer(vocabulary)
    with LlamaCpp(write_vocab_gguf(tmp_path / "model.gguf", vocabulary)) as llama:
        for text in TEXTS.values():
            assert llama.tokenize(text) == ids(again, text)
    named = Vocabulary.from_metadata(with_pre_tokenizer(older, "llama-bpe"))
    assert named.pre == "llama-bpe"
    assert ids(build_tokenizer(named), TEXTS["numbers"]) != ids(again, TEXTS["numbers"])
    with pytest.raises(TokenizerError, match="'llama4x' is not known: nearest is 'llama4'"):
        with_pre_tokenizer(older, "llama4x")


def test_bert_files_that_name_cls_only(tmp_path: Path) -> None:
    current = of_family("bert", tmp_path)
    metadata = {key: kv for key, kv in current.metadata().items() if key not in (T.ADD_BOS, T.ADD_EOS, T.EOS_ID)}
    older = Vocabulary.from_metadata({"tokenizer.ggml.cls_token_id": metadata.pop(T.BOS_ID), **metadata})
    assert (older.add_bos, older.add_eos) == (True, True)
    tokenizer = build_tokenizer(older)
    assert ids(tokenizer, "fox") == ids(build_tokenizer(current), "fox")
    assert (ids(tokenizer, "fox")[0], ids(tokenizer, "fox")[-1]) == (current.specials["bos"], current.specials["sep"])
    with pytest.raises(TokenizerError, match="cannot have the pre-tokenizer 'gpt-2': it is not byte-level BPE"):
        with_pre_tokenizer(metadata, "gpt-2")


def test_llama_files_that_name_no_tokens(tmp_path: Path) -> None:
    """llama.cpp's defaults: 1 begins a text."""
    named = sentencepiece_vocabulary(tmp_path, **BPE)
    metadata = {key: kv for key, kv in named.metadata().items() if not key.endswith("_token_id")}
    metadata.pop(T.ADD_BOS)
    older = Vocabulary.from_metadata(metadata)
    assert older.types[1] == TokenType.CONTROL
    assert (older.add_bos, older.specials) == (True, {"bos": 1, "eos": 2, "unk": 0})
    with LlamaCpp(write_vocab_gguf(tmp_path / "model.gguf", older)) as llama:
        assert llama.tokenize("a fox") == ids(build_tokenizer(older), "a fox")

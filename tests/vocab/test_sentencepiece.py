"""SentencePiece BPE: the same ids from sentencepiece, transformers, the rebuilt tokenizer and llama.cpp."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from gguf import TokenType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hubquant.errors import NotSupportedYet, TokenizerError
from hubquant.llamacpp.texts import TEXTS
from hubquant.models.load import load_tokenizer
from hubquant.models.tiny import CORPUS
from hubquant.vocab import ModelFacts, Vocabulary, build_tokenizer, known_differences, read_vocabulary
from hubquant.vocab.sentencepiece import read_model
from tests.support.llamacpp import LlamaCpp
from tests.support.vocab_gguf import write_vocab_gguf

TEXT = (
    "Hello world! It's 12345 o'clock, ISN'T it?\n\n\n  def main(x):\n\treturn x+1 # 日本語 テスト 한국어 🙂👩‍👩‍👧 "
    "Привет МИР café naïve العربية हिन्दी ไทย"
    " \r\n    ∑ <tag>   3.14159 e\u0301 http://a.b/c//\n  ÉCOLE x₂ Ⅷ \u00a0 trailing  "
)
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
NO_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def train(**options: Any) -> bytes:
    written = io.BytesIO()
    choices = {
        "model_type": "bpe",
        "vocab_size": 600,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "character_coverage": 0.98,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*CORPUS, TEXT, TEXT]),
        model_writer=written,
        num_threads=1,
        minloglevel=2,
        hard_vocab_limit=False,
        **(choices | options),
    )
    return written.getvalue()


@pytest.fixture(scope="module")
def model() -> bytes:
    return train(user_defined_symbols=["<sep>"])


def reference(model: bytes, text: str) -> list[int]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.bos_id(), *processor.encode(text)]


def rebuilt(vocabulary: Vocabulary) -> Any:
    return build_tokenizer(Vocabulary.from_metadata(vocabulary.metadata()))


def llama_ids(path: Path, vocabulary: Vocabulary, text: str) -> list[int]:
    with LlamaCpp(write_vocab_gguf(path, vocabulary)) as llama:
        return llama.tokenize(text)


def write_json(folder: Path, model: bytes, **changes: Any) -> Path:
    """A repository that has only tokenizer.json, in the style of Llama 2 unless ``changes`` say otherwise."""
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model)
    backend = rebuilt(read_vocabulary(folder, {})).backend_tokenizer
    (folder / "tokenizer.model").unlink()
    (folder / "tokenizer.json").write_text(json.dumps({**json.loads(backend.to_str()), **changes}))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
    return folder


def test_model_file(tmp_path: Path, model: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(model)
    vocabulary = read_vocabulary(tmp_path, {}, ModelFacts(rows=700))
    assert Vocabulary.from_metadata(vocabulary.metadata()) == vocabulary
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert vocabulary.scores[: len(processor)] == tuple(processor.get_score(id) for id in range(len(processor)))
    kinds = {0: "UNKNOWN", 1: "CONTROL", 2: "CONTROL", 3: "USER_DEFINED", 4: "BYTE", 599: "NORMAL"}
    assert {id: TokenType(vocabulary.types[id]).name for id in kinds} == kinds
    assert vocabulary.tokens[699] == "[PAD699]"
    assert vocabulary.specials == {"unk": 0, "bos": 1, "eos": 2}
    again = rebuilt(vocabulary)
    for text in (TEXT, "a<sep>", " ", "", "\n"):
        assert again(text)["input_ids"] == reference(model, text)
    assert again.decode(again(TEXT)["input_ids"], skip_special_tokens=True) == TEXT
    assert llama_ids(tmp_path / "model.gguf", vocabulary, TEXT) == reference(model, TEXT)


def test_spaces_as_user_defined_pieces(tmp_path: Path) -> None:
    """Gemma's habit. They are written with spaces: llama.cpp looks for them in the text as it stands."""
    model = train(user_defined_symbols=["▁▁", "▁▁▁"], add_dummy_prefix=False)
    (tmp_path / "tokenizer.model").write_bytes(model)
    vocabulary = read_vocabulary(tmp_path, {})
    assert vocabulary.tokens[3:5] == ("  ", "   ")
    assert not vocabulary.add_space_prefix
    assert rebuilt(vocabulary)(TEXT)["input_ids"] == reference(model, TEXT)
    assert llama_ids(tmp_path / "model.gguf", vocabulary, TEXT) == reference(model, TEXT)


@pytest.mark.parametrize(
    "changes",
    [{}, {"normalizer": None, "pre_tokenizer": METASPACE}, {"normalizer": ESCAPE, "pre_tokenizer": NO_SPLIT}],
    ids=["llama 2", "mistral", "gemma"],
)
def test_json_file(tmp_path: Path, model: bytes, changes: dict[str, Any]) -> None:
    folder = write_json(tmp_path / "json", model, **changes)
    vocabulary = read_vocabulary(folder, {})
    assert vocabulary.add_space_prefix == ("normalizer" not in changes or changes["normalizer"] is None)
    kinds = ["UNKNOWN", "CONTROL", "CONTROL", "USER_DEFINED", "BYTE"]
    assert [TokenType(type).name for type in vocabulary.types[:5]] == kinds
    source, again = AutoTokenizer.from_pretrained(folder), rebuilt(vocabulary)
    with LlamaCpp(write_vocab_gguf(tmp_path / "model.gguf", vocabulary)) as llama:
        known = known_differences(vocabulary)
        for text in (TEXT, *(text for name, text in TEXTS.items() if name not in known)):
            expected = source(text)["input_ids"]
            assert again(text)["input_ids"] == expected
            assert llama.tokenize(text) == expected


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "PreTrainedTokenizerFast", "CodeOfItsOwn"])
def test_loading_only_a_model_file(tmp_path: Path, model: bytes, kind: str) -> None:
    """transformers leaves out bos or the first space for some classes, and does not know others."""
    (tmp_path / "tokenizer.model").write_bytes(model)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, "auto_map": {}}))
    tokenizer = load_tokenizer(tmp_path)
    for text in TEXTS.values():
        assert tokenizer(text)["input_ids"] == reference(model, text)


def test_scores_come_from_the_model_file_that_belongs_to_the_json(tmp_path: Path, model: bytes) -> None:
    folder = write_json(tmp_path / "both", model)
    (folder / "tokenizer.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    scores = tuple(processor.get_score(id) for id in range(len(processor)))
    assert read_vocabulary(folder, {}).scores[4:] == scores[4:]
    alone = tuple(range(-len(processor), 0))
    for foreign in (b"IQ== 0\nIg== 1\n", train(vocab_size=400)):
        (folder / "tokenizer.model").write_bytes(foreign)
        vocabulary = read_vocabulary(folder, {})
        assert vocabulary.scores not in (scores, alone)
        assert rebuilt(vocabulary)(TEXT)["input_ids"] == reference(model, TEXT)


def test_added_tokens_of_a_fine_tune(tmp_path: Path, model: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(model)
    added = {"600": {"content": "<|im_end|>", "special": True}, "601": {"content": "<tool>", "special": False}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added, "add_bos_token": False}))
    vocabulary = read_vocabulary(tmp_path, {}, ModelFacts(rows=602))
    assert vocabulary.types[600:] == (TokenType.CONTROL, TokenType.USER_DEFINED)
    assert not vocabulary.add_bos
    ids = rebuilt(vocabulary)("hello<|im_end|>")["input_ids"]
    assert ids == [*reference(model, "hello")[1:], 600]
    assert llama_ids(tmp_path / "model.gguf", vocabulary, "hello<|im_end|>") == ids


def test_unsupported_models(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(model_type="char"))
    with pytest.raises(NotSupportedYet, match="neither BPE nor Unigram"):
        read_vocabulary(tmp_path, {})
    path.write_bytes(train(normalization_rule_name="nmt_nfkc"))
    with pytest.raises(TokenizerError, match="normalizes characters"):
        read_vocabulary(tmp_path, {})
    path.write_bytes(train(remove_extra_whitespaces=True))
    with pytest.raises(TokenizerError, match="removes extra spaces"):
        read_vocabulary(tmp_path, {})
    path.write_bytes(b"not a model")
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        read_vocabulary(tmp_path, {})
    path.write_bytes(model)
    with pytest.raises(TokenizerError, match="cannot have the pre-tokenizer 'gpt-2': it is not byte-level BPE"):
        read_vocabulary(tmp_path, {}, pre_tokenizer="gpt-2")
    folder = write_json(tmp_path / "json", model, normalizer={"type": "NFKC"})
    with pytest.raises(TokenizerError, match="it has NFKC"):
        read_vocabulary(folder, {})
    folder = write_json(tmp_path / "split", model, normalizer=None, pre_tokenizer={**METASPACE, "split": True})
    with pytest.raises(TokenizerError, match="it has Metaspace"):
        read_vocabulary(folder, {})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(cut=st.integers(0, 9000), changes=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), max_size=4))
def test_damaged_model_files(tmp_path: Path, model: bytes, cut: int, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(model)
    for position, byte in changes:
        damaged[position % len(damaged)] = byte
    path = tmp_path / "tokenizer.model"
    path.write_bytes(damaged[: cut or None])
    try:
        pieces = read_model(path).pieces
    except TokenizerError:
        return
    assert 0 < len(pieces) <= 601

"""tiktoken.model, as Kimi's repositories have it in the place of tokenizer.json."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from unicodedata import category

import gguf
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from hubquant.errors import TokenizerError
from hubquant.hub.pull import METADATA
from hubquant.llamacpp.texts import TEXTS
from hubquant.models.load import load_tokenizer
from hubquant.models.tiny import CORPUS
from hubquant.vocab import ModelFacts, build_tokenizer, read_vocabulary
from hubquant.vocab.pretokenizers import KIMI_K2
from hubquant.vocab.read import OWN_FILES
from tests.support.llamacpp import LlamaCpp
from tests.support.vocab_gguf import write_vocab_gguf

SPECIALS = ["[BOS]", "[EOS]", "<|im_end|>"]
CONFIG: dict[str, Any] = {
    "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
    "tokenizer_class": "TikTokenTokenizer",
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
}


@pytest.fixture
def trained() -> Tokenizer:
    """Of Kimi's regex, with its tokens in the order in which tiktoken merges."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(KIMI_K2), "isolated"), byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def write(folder: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> int:
    """How many byte sequences there are."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    bytes_of = {text: byte for byte, text in bytes_to_unicode().items()}
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    lines = [f"{base64.b64encode(bytes(bytes_of[c] for c in text)).decode()} {id}" for text, id in vocab]
    (folder / "tiktoken.model").write_text("\n".join(lines) + "\n")
    decoder = {str(len(vocab) + 2 * i): {"content": text, "special": True} for i, text in enumerate(SPECIALS)}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "added_tokens_decoder": decoder}))
    (folder / "config.json").write_text("{}")
    return len(vocab)


def test_what_is_read_is_fetched_too() -> None:
    assert all(METADATA.fullmatch(name) for name in OWN_FILES)


def has_marks(text: str) -> bool:
    """Of which llama.cpp makes words of their own."""
    return any(category(character).startswith("M") for character in text)


def test_ids_are_those_of_tiktoken_and_of_llama_cpp(trained: Tokenizer, tmp_path: Path) -> None:
    n_ranks = write(tmp_path, trained, CONFIG)
    vocabulary = read_vocabulary(tmp_path, {}, ModelFacts(rows=n_ranks + 6))
    assert vocabulary.pre == "kimi-k2"
    assert vocabulary.tokens[n_ranks:][:2] == ("[BOS]", f"<|reserved_token_{n_ranks + 1}|>")
    assert {*vocabulary.types[n_ranks:]} == {int(gguf.TokenType.CONTROL)}
    assert vocabulary.specials == {"bos": n_ranks, "eos": n_ranks + 2}
    rebuilt, loaded = build_tokenizer(vocabulary), load_tokenizer(tmp_path)
    file = tmp_path / "vocab.gguf"
    write_vocab_gguf(file, vocabulary)
    with LlamaCpp(file) as llama:
        for text in {*CORPUS, *(text for text in TEXTS if not has_marks(text))}:
            expected = trained.encode(text).ids
            assert rebuilt.encode(text, add_special_tokens=False) == expected
            assert loaded.encode(text, add_special_tokens=False) == expected
            assert llama.tokenize(text) == expected


def test_a_regex_that_is_not_known(trained: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path, trained, CONFIG | {"auto_map": {"AutoTokenizer": ["tokenization_other.Tokenizer", None]}})
    with pytest.raises(TokenizerError, match="how text is split") as caught:
        read_vocabulary(tmp_path, {})
    assert "--pre-tokenizer" in str(caught.value.hint)
    assert read_vocabulary(tmp_path, {}, pre_tokenizer="qwen2").pre == "qwen2"


@pytest.mark.parametrize("content", ["YQ== 0\nYg== 2\n", "YQ== 0\nYQ==\n", "?? 0\n", " 0\n", "YQ== 0\nYg== zero\n"])
def test_other_files_of_that_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tiktoken.model").write_text(content)
    with pytest.raises(TokenizerError, match=r"tiktoken\.model cannot be read"):
        read_vocabulary(tmp_path, {})

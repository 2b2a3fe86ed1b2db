"""Gemma 4: SentencePiece's pieces with merges, as llama.cpp's converter writes them and as llama.cpp reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf import Keys, TokenType

from hubquant.errors import TokenizerError
from hubquant.llamacpp.texts import TEXTS
from hubquant.llamacpp.vocabulary import check_vocabulary
from hubquant.models.load import load_tokenizer
from hubquant.models.tiny import CORPUS
from hubquant.vocab import ModelFacts, Vocabulary, build_tokenizer, read_vocabulary
from hubquant.vocab.gemma4 import VISIBLE, begin_with_bos
from tests.support.llamacpp import LlamaCpp
from tests.support.vocab_gguf import write_vocab_gguf

T = Keys.Tokenizer
FACTS = ModelFacts(architecture="gemma4")
SPECIALS = {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>", "mask": "<mask>"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As published: tool calls are marked as special, and nothing puts <bos> before a text."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    first = [*SPECIALS.values(), *VISIBLE, "<|turn>", "<turn|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+|▁?[^▁\n]+"), "isolated")  # only to train as published
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=first, show_progress=False)
    backend.train_from_iterator([*CORPUS, "\n\n\n\n", "a  b   c"] * 4, trainer)
    parts = json.loads(backend.to_str())
    parts["pre_tokenizer"] = json.loads(pre_tokenizers.Split(" ", "merged_with_previous").__getstate__())
    parts["added_tokens"] = [each for each in parts["added_tokens"] if not each["content"].startswith("<0x")]
    backend = Tokenizer.from_str(json.dumps(parts))
    backend.add_tokens([AddedToken("<table>", normalized=False)])
    make: Any = PreTrainedTokenizerFast
    named = {f"{role}_token": text for role, text in SPECIALS.items()}
    make(tokenizer_object=backend, **named, extra_special_tokens=["<|turn>", "<turn|>"]).save_pretrained(tmp_path)
    return tmp_path


def test_as_llama_cpp_writes_it(folder: Path) -> None:
    vocabulary = read_vocabulary(folder, {}, FACTS)
    assert Vocabulary.from_metadata(vocabulary.metadata()) == vocabulary
    metadata = vocabulary.metadata()
    theirs = gguf.LlamaHfVocab(folder)
    texts, scores, types = zip(*theirs.all_tokens(), strict=True)
    assert vocabulary.tokens == tuple(text.decode() for text in texts)
    assert vocabulary.scores == scores
    forced = dict.fromkeys((*VISIBLE, "<table>"), TokenType.USER_DEFINED)
    assert vocabulary.types == tuple(
        forced.get(text, type) for text, type in zip(vocabulary.tokens, types, strict=True)
    )
    special = gguf.SpecialVocab(folder, load_merges=True)
    assert list(vocabulary.merges) == special.merges
    assert vocabulary.specials == special.special_token_ids
    assert (metadata[T.MODEL].value, T.PRE in metadata) == ("gemma4", False)
    assert (metadata[T.ADD_BOS].value, metadata[T.ADD_PREFIX].value) == (True, False)


def test_same_tokens(folder: Path) -> None:
    vocabulary, source = read_vocabulary(folder, {}, FACTS), load_tokenizer(folder)
    again = build_tokenizer(Vocabulary.from_metadata(vocabulary.metadata()))
    call = '<|tool_call>call:f{x:<|"|>a<|"|>}<tool_call|>'
    with LlamaCpp(write_vocab_gguf(folder / "model.gguf", vocabulary)) as llama:
        for text in (*TEXTS.values(), f"<|turn>a\n\n{call}<turn|>", "<table> b", "\n" * 70, "x  y" + " " * 40):
            expected = source(text)["input_ids"]
            assert llama.tokenize(text) == [vocabulary.specials["bos"], *expected]
            assert again(text)["input_ids"] == [vocabulary.specials["bos"], *expected]
        assert llama.detok(llama.tokenize(f"{call}<turn|>")).removeprefix("<bos>").startswith(call)


def test_bos_before_every_text(folder: Path) -> None:
    """As llama.cpp insists, so that calibration and evaluation see it too."""
    (folder / "chat_template.jinja").write_text("{{ bos_token }}<|turn>user\n{{ messages[0].content }}<turn|>\n")
    vocabulary, source = read_vocabulary(folder, {}, FACTS), load_tokenizer(folder)
    assert source("")["input_ids"] == []
    assert begin_with_bos(source)("")["input_ids"] == [vocabulary.specials["bos"]]
    assert begin_with_bos(source)("<bos>")["input_ids"] == [vocabulary.specials["bos"]] * 2
    check = check_vocabulary(vocabulary, source)
    assert (check.n_texts, check.note) == (len(TEXTS) + 3, None)


def test_other_families_keep_their_form(folder: Path) -> None:
    vocabulary = read_vocabulary(folder, {})
    assert (vocabulary.model, vocabulary.merges) == ("llama", ())
    source = load_tokenizer(folder)
    with LlamaCpp(write_vocab_gguf(folder / "model.gguf", vocabulary)) as llama:
        for text in (*TEXTS.values(), "<|turn>a\n\nb<turn|>", "\n" * 70, "x  y" + " " * 40):
            assert llama.tokenize(text)[vocabulary.add_bos :] == source(text)["input_ids"]


def test_what_llama_cpp_cannot_do(folder: Path) -> None:
    path = folder / "tokenizer.json"
    parts = json.loads(path.read_text())
    prefix = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, parts["normalizer"]]}
    path.write_text(json.dumps({**parts, "normalizer": prefix}))
    with pytest.raises(TokenizerError, match="puts a space before a text"):
        read_vocabulary(folder, {}, FACTS)
    path.write_text(json.dumps(parts))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": None}))
    with pytest.raises(TokenizerError, match="no token that begins a text"):
        read_vocabulary(folder, {}, FACTS)

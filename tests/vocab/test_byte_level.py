"""Byte-level BPE: the same ids from transformers, the tokenizer rebuilt out of GGUF metadata, and llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hubquant.errors import NotSupportedYet, TokenizerError
from hubquant.llamacpp.texts import TEXTS
from hubquant.models.tiny import CORPUS, LLAMA3_PATTERN, TOKENIZERS
from hubquant.vocab import ModelFacts, Vocabulary, build_tokenizer, known_differences, read_vocabulary
from hubquant.vocab.pretokenizers import PRE_TOKENIZERS, structure_of
from hubquant.vocab.structure import TokenizerStep, TokenizerStructure
from tests.support.llamacpp import LlamaCpp
from tests.support.vocab_gguf import write_vocab_gguf

TEXT = (
    "Hello world! It's 12345 o'clock, ISN'T it?\n\n\n  def main(x):\n\treturn x+1 # 日本語 テスト 한국어 🙂👩‍👩‍👧 "
    "Привет МИР café naïve العربية \r\n    ∑ <tag>   3.14159 http://a.b/c//\n  $x^2 + `code` {a: [1,2]} École "
    "x₂ Ⅷ \u00a0 trailing  "
)
WITH_NUMBERS = ("afmoe", "tiny_aya")  # llama.cpp cuts spaces before a number as those before a word
MARKS = "हिन्दी ไทย e\u0301 ÉCOLE"


def train(structure: TokenizerStructure, folder: Path) -> Path:
    """A tokenizer of that structure, saved as a repository has it."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=structure.ignore_merges))
    tokenizer.decoder = decoders.ByteLevel()
    parts = json.loads(tokenizer.to_str())
    parts["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [step.to_json() for step in structure.steps]}
    parts["normalizer"] = {"type": structure.normalizer} if structure.normalizer else None
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|bos|>", "<|eos|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*CORPUS, *TEXTS.values(), *TEXTS.values(), TEXT, MARKS], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|eos|>").save_pretrained(
        folder
    )
    return folder


def rebuilt(vocabulary: Vocabulary) -> Any:
    return build_tokenizer(Vocabulary.from_metadata(vocabulary.metadata()))


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])


def edit(folder: Path, name: str = "tokenizer.json", **changes: Any) -> None:
    """Change top-level entries of a JSON file; an entry that is a dict is merged into the one that is there."""
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    for key, value in changes.items():
        content[key] = (
            {**content[key], **value} if isinstance(value, dict) and isinstance(content.get(key), dict) else value
        )
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("known", PRE_TOKENIZERS, ids=lambda known: known.names[0])
def test_every_known_structure(tmp_path: Path, known: Any) -> None:
    train(known.structure, tmp_path)
    vocabulary = read_vocabulary(tmp_path, {})
    assert vocabulary.pre == known.names[0]
    assert Vocabulary.from_metadata(vocabulary.metadata()) == vocabulary
    source, again = AutoTokenizer.from_pretrained(tmp_path), rebuilt(vocabulary)
    for text in (TEXT, MARKS, "", " ", "\n"):
        expected = ids(source, text)
        assert ids(again, text) == expected
        assert again.decode(expected) == source.decode(expected)
    with LlamaCpp(write_vocab_gguf(tmp_path / "model.gguf", vocabulary)) as llama:
        differing = {name for name, text in TEXTS.items() if llama.tokenize(text) != ids(source, text)}
        assert differing <= known_differences(vocabulary)
        text = TEXT.replace("   3.14159", " 3.14159") if known.names[0] in WITH_NUMBERS else TEXT
        assert llama.tokenize(text) == ids(source, text)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_tiny_models(tmp_path: Path, family: str) -> None:
    """A fine-tune with more tokens, an embedding with more rows than tokens, and a beginning-of-text token."""
    tokenizer = TOKENIZERS[family]()
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True), AddedToken("<think>", special=False)])
    tokenizer.save_pretrained(tmp_path)
    n = len(tokenizer)
    vocabulary = read_vocabulary(tmp_path, {}, ModelFacts(rows=n + 3))
    assert vocabulary.tokens[n - 2 :] == ("<|im_end|>", "<think>", f"[PAD{n}]", f"[PAD{n + 1}]", f"[PAD{n + 2}]")
    assert vocabulary.types[n - 2 :] == (TokenType.CONTROL, TokenType.USER_DEFINED, *[TokenType.UNUSED] * 3)
    assert vocabulary.types[:2] == (TokenType.CONTROL, TokenType.CONTROL if family == "llama" else TokenType.NORMAL)
    assert vocabulary.add_bos == (family == "llama")
    text = f"<think>{TEXT}</think> <think><|im_end|>\n{TEXT}"
    expected = ids(AutoTokenizer.from_pretrained(tmp_path), text)
    again = rebuilt(vocabulary)
    assert ids(again, text) == expected
    assert len(again) == n + 3
    assert again.eos_token_id == tokenizer.eos_token_id
    with LlamaCpp(write_vocab_gguf(tmp_path / "model.gguf", vocabulary)) as llama:
        assert llama.tokenize(text) == expected


def test_metadata_is_that_of_the_gguf_package(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["llama"]()
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path)
    metadata = read_vocabulary(tmp_path, {}).metadata()
    theirs = gguf.SpecialVocab(tmp_path, load_merges=True)
    assert list(metadata[gguf.Keys.Tokenizer.MERGES].value) == theirs.merges  # type: ignore[arg-type]
    assert metadata[gguf.Keys.Tokenizer.BOS_ID].value == theirs.special_token_ids["bos"]
    assert metadata[gguf.Keys.Tokenizer.EOS_ID].value == theirs.special_token_ids["eos"]
    assert metadata[gguf.Keys.Tokenizer.ADD_BOS].value == theirs.add_special_token["bos"]
    assert metadata[gguf.Keys.Tokenizer.CHAT_TEMPLATE].value == theirs.chat_template
    assert metadata[gguf.Keys.Tokenizer.MODEL].value == "gpt2"


def test_two_special_tokens_of_the_template(tmp_path: Path) -> None:
    train(structure_of("gpt-2"), tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A <|eos|>", pair="<|bos|> $A <|eos|> $B", special_tokens=[("<|bos|>", 0), ("<|eos|>", 1)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocabulary = read_vocabulary(tmp_path, {})
    assert (vocabulary.add_bos, vocabulary.add_eos) == (True, True)
    expected = ids(AutoTokenizer.from_pretrained(tmp_path), TEXT)
    assert expected[0] == 0
    assert expected[-1] == 1
    assert ids(rebuilt(vocabulary), TEXT) == expected
    with LlamaCpp(write_vocab_gguf(tmp_path / "model.gguf", vocabulary)) as llama:
        assert llama.tokenize(TEXT) == expected


def test_runs_of_spaces_as_added_tokens(tmp_path: Path) -> None:
    """GPT-NeoX's habit: tokens that are no special ones, of two to 24 spaces."""
    train(structure_of("olmo"), tmp_path)
    source = AutoTokenizer.from_pretrained(tmp_path)
    source.add_tokens([AddedToken(" " * n, normalized=True, special=False) for n in range(24, 1, -1)])
    source.save_pretrained(tmp_path)
    vocabulary = read_vocabulary(tmp_path, {}, ModelFacts(rows=640))
    assert vocabulary.pre == "olmo"
    assert vocabulary.types.count(TokenType.USER_DEFINED) == 23
    texts = [*TEXTS.values(), TEXT, f"{' ' * 23}def x():\n{' ' * 50}return"]
    with LlamaCpp(write_vocab_gguf(tmp_path / "model.gguf", vocabulary)) as llama:
        for text in texts:
            assert llama.tokenize(text) == ids(source, text)
            assert ids(rebuilt(vocabulary), text) == ids(source, text)


def test_spellings_of_one_structure(tmp_path: Path) -> None:
    train(TokenizerStructure(structure_of("dbrx").steps, False, "NFC"), tmp_path)
    vocabulary = read_vocabulary(tmp_path, {})
    assert vocabulary.pre == "dbrx"
    assert rebuilt(vocabulary).backend_tokenizer.normalizer is not None
    parts = json.loads((tmp_path / "tokenizer.json").read_text())
    split = parts["pre_tokenizer"]["pretokenizers"][0]
    possessive = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    )
    merges = [" ".join(pair) for pair in parts["model"]["merges"]]
    for change in (
        {"behavior": "Removed", "invert": True},
        {"behavior": "Isolated", "invert": False, "pattern": {"Regex": possessive}},
    ):
        split |= change
        edit(tmp_path, pre_tokenizer=parts["pre_tokenizer"], model={"merges": merges})
        assert read_vocabulary(tmp_path, {}) == vocabulary
        assert ids(AutoTokenizer.from_pretrained(tmp_path), TEXT) == ids(rebuilt(vocabulary), TEXT)


def test_ignore_merges_that_makes_no_difference(tmp_path: Path) -> None:
    train(structure_of("qwen2"), tmp_path)
    edit(tmp_path, model={"ignore_merges": True})
    assert read_vocabulary(tmp_path, {}).pre == "qwen2"
    parts = json.loads((tmp_path / "tokenizer.json").read_text())
    edit(tmp_path, model={"merges": parts["model"]["merges"][:-1]})
    with pytest.raises(
        TokenizerError, match=r"almost llama\.cpp's 'qwen2': ignore_merges differs, and it matters for 1 token"
    ):
        read_vocabulary(tmp_path, {})


def test_unknown_structure_shows_the_nearest(tmp_path: Path) -> None:
    unknown = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}{1,7}")
    steps = (TokenizerStep("Split", unknown), TokenizerStep("ByteLevel", "plain"))
    train(TokenizerStructure(steps, False, None), tmp_path)
    with pytest.raises(TokenizerError) as raised:
        read_vocabulary(tmp_path, {})
    assert r"{1,7}" in str(raised.value)
    assert "nearest is 'llama-bpe'" in str(raised.value)
    assert "qwen2" in str(raised.value.hint)
    assert read_vocabulary(tmp_path, {}, pre_tokenizer="dbrx").pre == "dbrx"
    with pytest.raises(TokenizerError, match="'qwen2-x' is not known: nearest is 'qwen2'"):
        read_vocabulary(tmp_path, {}, pre_tokenizer="qwen2-x")


def test_only_vocab_and_merges(tmp_path: Path) -> None:
    train(structure_of("gpt-2"), tmp_path / "whole")
    expected = ids(AutoTokenizer.from_pretrained(tmp_path / "whole"), TEXT)
    model = json.loads((tmp_path / "whole/tokenizer.json").read_text())["model"]
    old = tmp_path / "old"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(model["vocab"]))
    (old / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]) + "\n")
    special = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "unk_token": "<|eos|>"}
    (old / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **special}))
    (old / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    vocabulary = read_vocabulary(old, {})
    assert vocabulary.pre == "gpt-2"
    assert ids(rebuilt(vocabulary), TEXT) == expected


def test_tokens_around_a_text_as_roberta_has_them(tmp_path: Path) -> None:
    train(structure_of("gpt-2"), tmp_path)
    around = {"sep": ["<|eos|>", 1], "cls": ["<|bos|>", 0], "trim_offsets": True, "add_prefix_space": False}
    edit(tmp_path, post_processor={"type": "RobertaProcessing", **around})
    vocabulary = read_vocabulary(tmp_path, {}, ModelFacts(n_token_types=1))
    assert (vocabulary.add_bos, vocabulary.add_eos, vocabulary.n_token_types) == (True, True, 1)
    assert vocabulary.metadata()[gguf.Keys.Tokenizer.TOKEN_TYPE_COUNT].value == 1
    expected = ids(AutoTokenizer.from_pretrained(tmp_path), TEXT)
    assert ids(rebuilt(vocabulary), TEXT) == expected
    with LlamaCpp(write_vocab_gguf(tmp_path / "model.gguf", vocabulary)) as llama:
        assert llama.tokenize(TEXT) == expected
    edit(tmp_path, post_processor={"type": "RobertaProcessing", **around, "sep": None})
    with pytest.raises(TokenizerError, match="post-processor cannot be read"):
        read_vocabulary(tmp_path, {})


def prefixed(folder: Path) -> None:
    edit(folder, pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "use_regex": True})


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "json": (lambda f: (f / "tokenizer.json").write_text("{"), TokenizerError, "tokenizer.json cannot be read"),
    "nested": (lambda f: (f / "tokenizer.json").write_text("[" * 99999), TokenizerError, "cannot be read"),
    "list": (lambda f: (f / "tokenizer.json").write_text("[]"), TokenizerError, "not a JSON object"),
    "missing": (lambda f: (f / "tokenizer.json").unlink(), TokenizerError, "no tokenizer that can be read"),
    "no model": (lambda f: edit(f, model=None), TokenizerError, "has no model"),
    "words": (lambda f: edit(f, model={"type": "WordLevel"}), NotSupportedYet, "WordLevel tokenizers"),
    "suffix": (lambda f: edit(f, model={"end_of_word_suffix": "</w>"}), NotSupportedYet, "end_of_word_suffix"),
    "no bytes": (lambda f: edit(f, pre_tokenizer=None), NotSupportedYet, "neither byte-level"),
    "prefix space": (prefixed, TokenizerError, "no pre-tokenizer like"),
    "normalizer": (lambda f: edit(f, normalizer={"type": "NFKC"}), TokenizerError, "its normalizer is NFKC"),
    "huge id": (lambda f: edit(f, model={"vocab": {"a": 10**12}}), TokenizerError, "must be numbers below"),
    "id twice": (lambda f: edit(f, model={"vocab": {"a": 3, "b": 3}}), TokenizerError, "the same id"),
    "text id": (lambda f: edit(f, model={"vocab": {"a": "b"}}), TokenizerError, "vocabulary cannot be read"),
    "merges": (
        lambda f: edit(f, model={"merges": ["a b c"]}),
        TokenizerError,
        "model.merges.0 is 'a b c', which is no pair",
    ),
    "no merges": (lambda f: edit(f, model={"merges": None}), TokenizerError, "no merges"),
    "added": (
        lambda f: edit(f, added_tokens=[{"id": -1, "content": "a"}]),
        TokenizerError,
        "added_tokens.0.id is -1",
    ),
    "two ids": (lambda f: edit(f, added_tokens=[{"id": 9999, "content": "a"}]), TokenizerError, "'a' has two ids"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = train(structure_of("gpt-2"), tmp_path_factory.mktemp("sound"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("case", BAD)
def test_bad_tokenizers(tmp_path: Path, sound: dict[str, bytes], case: str) -> None:
    for name, content in sound.items():
        (tmp_path / name).write_bytes(content)
    spoil, error, message = BAD[case]
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        read_vocabulary(tmp_path, {})


def test_embedding_smaller_than_the_vocabulary(tmp_path: Path, sound: dict[str, bytes]) -> None:
    for name, content in sound.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match="the model 100 embeddings"):
        read_vocabulary(tmp_path, {}, ModelFacts(rows=100))
    with pytest.raises(TokenizerError, match="embeddings"):
        read_vocabulary(tmp_path, {}, ModelFacts(rows=10**12))
    whole = read_vocabulary(tmp_path, {})
    parts = json.loads((tmp_path / "tokenizer.json").read_text())
    edit(tmp_path, added_tokens=[*parts["added_tokens"], {"id": len(whole.tokens), "content": "<image>"}])
    assert read_vocabulary(tmp_path, {}).tokens == (*whole.tokens, "<image>")
    assert read_vocabulary(tmp_path, {}, ModelFacts(rows=len(whole.tokens))) == whole
    assert len(read_vocabulary(tmp_path, {}, ModelFacts(rows=620)).tokens) == 620

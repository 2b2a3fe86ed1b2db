"""From a model's folder to its vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hubquant.errors import NotSupportedYet, TokenizerError
from hubquant.panics import tokenizer_errors
from hubquant.vocab import plamo, rwkv, spm, tiktoken, unigram
from hubquant.vocab.bpe import read_byte_level
from hubquant.vocab.files import ROLES, Files, ModelFacts
from hubquant.vocab.gemma4 import read_gemma4
from hubquant.vocab.phi3 import strips_as_phi3
from hubquant.vocab.sentencepiece import UNIGRAM, read_model
from hubquant.vocab.structure import flatten
from hubquant.vocab.tekken import NAME as TEKKEN
from hubquant.vocab.tekken import NO_TEMPLATE, read_tekken, sentencepiece_file
from hubquant.vocab.vocabulary import Vocabulary, no_pre_tokenizer
from hubquant.vocab.wordpiece import read_wordpiece


def read_vocabulary(
    folder: Path, config: Mapping[str, Any], facts: ModelFacts | None = None, *, pre_tokenizer: str | None = None
) -> Vocabulary:
    """Read the tokenizer in ``folder``; ``config`` is the model's config.json. No code of the model is run.

    ``pre_tokenizer`` overrides what the structure of a byte-level BPE tokenizer says. Raises ``TokenizerError`` for a
    tokenizer that is missing, damaged, does not belong to the model or treats text as llama.cpp cannot,
    ``NotSupportedYet`` for other algorithms.
    """
    files = Files.read(folder, config, facts or ModelFacts())
    vocabulary = _read(files, config, pre_tokenizer)
    for role, id in vocabulary.specials.items():
        if not 0 <= id < len(vocabulary.tokens):
            raise TokenizerError(f"the tokenizer's {role} is token {id}", why=f"it has {len(vocabulary.tokens)}")
    return replace(vocabulary, strips_as_phi3=strips_as_phi3(files.added_tokens))


OWN_FILES = (TEKKEN, tiktoken.FILE, rwkv.FILE, plamo.FILE)


def has_own_file(folder: Path) -> bool:
    """Whether there is a file of SentencePiece or one of ``OWN_FILES``, from which a tokenizer can be made."""
    return bool(sentencepiece_file(folder)) or any((folder / name).is_file() for name in OWN_FILES)


def _read(files: Files, config: Mapping[str, Any], pre_tokenizer: str | None) -> Vocabulary:
    folder = files.folder
    if not files.tokenizer and (folder / TEKKEN).is_file():
        return _of_mistral(files, config, pre_tokenizer)
    sentencepiece = sentencepiece_file(folder)
    if not files.tokenizer and sentencepiece:
        _refuse_override(pre_tokenizer)
        pieces = read_model(sentencepiece)
        if pieces.algorithm == UNIGRAM:
            return unigram.read_from_model(files, pieces)
        return spm.read_from_model(files, pieces)
    if not files.tokenizer and (folder / rwkv.FILE).is_file():
        _refuse_override(pre_tokenizer)
        return rwkv.read_rwkv(files)
    if not files.tokenizer and (folder / plamo.FILE).is_file():
        _refuse_override(pre_tokenizer)
        return plamo.read_plamo(files)
    if not files.tokenizer and (folder / tiktoken.FILE).is_file():
        pre_tokenizer = pre_tokenizer or tiktoken.pre_tokenizer_of(files)
        files = Files.read(folder, config, files.facts, tokenizer=tiktoken.tokenizer_json(files))
    if not files.tokenizer:
        files = _converted(files, config)
    model = files.tokenizer.get("model")
    if not isinstance(model, dict):
        raise TokenizerError("tokenizer.json has no model", hint="download it again")
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    steps = {part.get("type") for part in flatten(files.tokenizer.get("pre_tokenizer"), "pretokenizers")}
    if kind == "BPE" and "ByteLevel" in steps:
        return read_byte_level(files, pre_tokenizer)
    _refuse_override(pre_tokenizer)
    if kind == "WordPiece":
        return read_wordpiece(files)
    if kind == "Unigram":
        return unigram.read_from_json(files)
    if kind != "BPE":
        raise NotSupportedYet(f"{kind} tokenizers", hint="BPE, Unigram and WordPiece are supported")
    if model.get("byte_fallback") and files.facts.architecture == "gemma4":
        return read_gemma4(files)
    if model.get("byte_fallback"):
        return spm.read_from_json(files, folder / "tokenizer.model")
    raise NotSupportedYet("BPE tokenizers that are neither byte-level nor SentencePiece's")


def _of_mistral(files: Files, config: Mapping[str, Any], pre_tokenizer: str | None) -> Vocabulary:
    tokenizer, named = read_tekken(files.folder / TEKKEN)
    given = Files.read(files.folder, config, files.facts, tokenizer=tokenizer, named=named)
    vocabulary = read_byte_level(given, pre_tokenizer)
    if vocabulary.chat_templates:
        return vocabulary
    return replace(vocabulary, notes=(*vocabulary.notes, NO_TEMPLATE))


def _refuse_override(pre_tokenizer: str | None) -> None:
    if pre_tokenizer is not None:
        raise no_pre_tokenizer(pre_tokenizer)


# What transformers makes a tokenizer.json of.
_OLDER = (("vocab.json", "merges.txt"), ("vocab.txt",), ("spiece.model",), ("sentencepiece.bpe.model",))


def _converted(files: Files, config: Mapping[str, Any]) -> Files:
    """The tokenizer.json that transformers makes of older files."""
    folder = files.folder
    if not any(all((folder / name).is_file() for name in names) for names in _OLDER):
        raise TokenizerError(
            f"{folder} has no tokenizer that can be read",
            why="there is no tokenizer.json, tokenizer.model, " + ", ".join(" with ".join(names) for names in _OLDER),
            hint="download the tokenizer files of the model",
        )
    from transformers import AutoTokenizer

    with tokenizer_errors(f"the tokenizer in {folder} cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        text = tokenizer.backend_tokenizer.to_str()
        texts = {f"{role}_token": getattr(tokenizer, f"{role}_token", None) for role in ROLES}
    named = {name: str(text) for name, text in texts.items() if text}
    return Files.read(folder, config, files.facts, tokenizer=json.loads(text), named=named)

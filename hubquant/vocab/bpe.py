"""Byte-level BPE vocabularies (GGUF's "gpt2" model) from tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gguf import TokenType

from hubquant.errors import NotSupportedYet, TokenizerError
from hubquant.panics import tokenizer_errors
from hubquant.vocab.files import Files, of_another_model
from hubquant.vocab.pretokenizers import recognise, structure_of
from hubquant.vocab.special import around, chat_templates, notes, parts_twice, special_ids
from hubquant.vocab.structure import read_structure
from hubquant.vocab.vocabulary import Vocabulary

MAX_TOKENS = 1 << 22


def read_byte_level(files: Files, pre_tokenizer: str | None) -> Vocabulary:
    """``pre_tokenizer`` is llama.cpp's name when the structure is not to decide.

    Raises ``TokenizerError`` for what cannot be read or has no name in llama.cpp, ``NotSupportedYet`` for variants of
    BPE that llama.cpp does not have.
    """
    model = files.tokenizer["model"]
    for feature in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(feature):
            raise NotSupportedYet(f"byte-level BPE with {feature}")
    ids = token_ids(files)
    tokens, types = lay_out(ids, files)
    merges = _merges(model)
    structure = read_structure(files.tokenizer)
    if pre_tokenizer is None:
        pre_tokenizer = recognise(structure, lambda: _unreachable(files))
    else:
        structure_of(pre_tokenizer)
    specials = special_ids(files, ids)
    add_bos, add_eos = around(files, specials, default_bos=False)
    return Vocabulary(
        model="gpt2",
        tokens=tuple(tokens),
        types=tuple(types),
        merges=merges,
        pre=pre_tokenizer,
        normalizer=structure.normalizer,
        specials=specials,
        add_bos=add_bos,
        add_eos=add_eos,
        add_sep=files.facts.n_token_types > 0 and parts_twice(files),
        n_token_types=files.facts.n_token_types,
        chat_templates=chat_templates(files),
        notes=notes(files, ids),
    )


def token_ids(files: Files) -> dict[str, int]:
    """Every token of tokenizer.json, added ones included. ``TokenizerError`` for ids that cannot be."""
    vocab = files.tokenizer["model"].get("vocab")
    if not isinstance(vocab, dict) or not all(isinstance(id, int) and 0 <= id < MAX_TOKENS for id in vocab.values()):
        raise TokenizerError(
            "the tokenizer's vocabulary cannot be read",
            why=f"the ids in model.vocab must be numbers below {MAX_TOKENS}",
        )
    ids = files.join(dict(vocab))
    texts = {id: text for text, id in ids.items()}
    if twice := next((text for text, id in ids.items() if texts[id] != text), None):
        raise TokenizerError(
            f"two tokens of the vocabulary have the same id: {twice!r} and {texts[ids[twice]]!r} are {ids[twice]}",
            hint="take tokenizer.json, tokenizer_config.json and added_tokens.json from one and the same model",
        )
    return ids


def lay_out(ids: Mapping[str, int], files: Files) -> tuple[list[str], list[int]]:
    """Tokens and types by id. Ids without a token up to the embedding's size become unused padding, as in llama.cpp.

    Added tokens without an embedding are left out, such as Gemma 3's token for images in a text model. Raises
    ``TokenizerError`` when other tokens have none, and for a text that two ids have.
    """
    added = {token.content for token in files.added_tokens} | {*files.special_texts}
    size = max((id for text, id in ids.items() if text not in added), default=-1) + 1
    rows = max(ids.values(), default=-1) + 1 if files.facts.rows is None else files.facts.rows
    if not 0 < size <= rows <= MAX_TOKENS:
        raise of_another_model(size, rows)
    tokens = [f"[PAD{id}]" for id in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    kept = {text: id for text, id in ids.items() if id < rows}
    for text, id in kept.items():
        tokens[id], types[id] = text, int(TokenType.NORMAL)
    for token in files.added_tokens:
        if token.id < rows:
            types[token.id] = int(TokenType.CONTROL if token.special else TokenType.USER_DEFINED)
    for text in files.special_texts:
        if text in kept:
            types[kept[text]] = int(TokenType.CONTROL)
    if len(set(tokens)) != rows:
        raise TokenizerError("two ids of the vocabulary have the same text", why="llama.cpp refuses such a file")
    return tokens, types


def _merges(model: Mapping[str, Any]) -> tuple[str, ...]:
    # A space inside a half would read as the separator; byte-level text has no other use for it.
    return tuple(f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}" for left, right in merge_pairs(model))


def merge_pairs(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The merges of tokenizer.json, in either of its notations. Raises ``TokenizerError`` for anything else."""
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise TokenizerError("the tokenizer has no merges")
    pairs = []
    for number, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(half, str) and half for half in pair):
            raise TokenizerError(
                "tokenizer.json cannot be used", why=f"model.merges.{number} is {merge!r:.60}, which is no pair"
            )
        pairs.append((pair[0], pair[1]))
    return pairs


def _unreachable(files: Files) -> list[str]:
    """Tokens that the merges alone do not give for their own text."""
    from tokenizers import Tokenizer

    model = {**files.tokenizer["model"], "ignore_merges": False}
    added = {token.content for token in files.added_tokens}
    words = [text for text in model["vocab"] if text not in added]
    with tokenizer_errors("tokenizer.json cannot be used"):
        merging = Tokenizer.from_str(json.dumps({**files.tokenizer, "model": model})).model
        return [word for word in words if len(merging.tokenize(word)) != 1]

"""Byte-level BPE vocabularies (GGUF's "gpt2" model) from tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gguf import TokenType

from hubquant.convert.vocab.pretokenizers import recognise, structure_of
from hubquant.convert.vocab.special import Files, around, chat_templates, special_ids
from hubquant.convert.vocab.structure import read_structure
from hubquant.convert.vocab.vocabulary import Vocabulary
from hubquant.errors import NotSupportedYet, TokenizerError

MAX_TOKENS = 1 << 22


def read_byte_level(files: Files, pre_tokenizer: str | None) -> Vocabulary:
    """``pre_tokenizer`` is llama.cpp's name when the structure is not to decide."""
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
        n_token_types=files.n_token_types(),
        chat_templates=chat_templates(files),
    )


def token_ids(files: Files) -> dict[str, int]:
    """Every token of tokenizer.json, added ones included. ``TokenizerError`` for ids that cannot be."""
    vocab = files.tokenizer["model"].get("vocab")
    if not isinstance(vocab, dict) or not all(isinstance(id, int) and 0 <= id < MAX_TOKENS for id in vocab.values()):
        raise TokenizerError("the tokenizer's vocabulary cannot be read", why=f"ids must be numbers below {MAX_TOKENS}")
    ids = dict(vocab)
    for token in files.added_tokens():
        if token.id >= MAX_TOKENS or ids.setdefault(token.content, token.id) != token.id:
            raise TokenizerError(f"token {token.content!r} has two ids", why=f"{ids[token.content]} and {token.id}")
    if len(set(ids.values())) != len(ids):
        raise TokenizerError("two tokens of the vocabulary have the same id")
    return ids


def lay_out(ids: Mapping[str, int], files: Files) -> tuple[list[str], list[int]]:
    """Tokens and types by id. Ids without a token up to the embedding's size become unused padding, as in llama.cpp."""
    size = max(ids.values(), default=-1) + 1
    rows = files.vocab_size() or size
    if not 0 < size <= rows <= MAX_TOKENS:
        raise TokenizerError(
            f"the tokenizer has ids up to {size - 1}, the model {rows} embeddings",
            hint="the tokenizer files and config.json must belong to one model",
        )
    tokens = [f"[PAD{id}]" for id in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    for text, id in ids.items():
        tokens[id], types[id] = text, int(TokenType.NORMAL)
    for token in files.added_tokens():
        types[token.id] = int(TokenType.CONTROL if token.special else TokenType.USER_DEFINED)
    for text in files.named_specials().values():
        if text in ids:
            types[ids[text]] = int(TokenType.CONTROL)
    if len(set(tokens)) != rows:
        raise TokenizerError("two ids of the vocabulary have the same text", why="llama.cpp refuses such a file")
    return tokens, types


def _merges(model: Mapping[str, Any]) -> tuple[str, ...]:
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise TokenizerError("the tokenizer has no merges")
    # A space inside a half would read as the separator; byte-level text has no other use for it.
    pairs = (
        merge.split(" ") if isinstance(merge, str) else [str(half).replace(" ", "Ġ") for half in merge]
        for merge in merges
    )
    joined = tuple(" ".join(pair) if len(pair) == 2 else "" for pair in pairs)
    if not all(joined):
        raise TokenizerError("the tokenizer's merges cannot be read", why=f"merge {joined.index('')} is not a pair")
    return joined


def _unreachable(files: Files) -> list[str]:
    """Tokens that the merges alone do not give for their own text."""
    from tokenizers import Tokenizer

    model = {**files.tokenizer["model"], "ignore_merges": False}
    merging = Tokenizer.from_str(json.dumps({**files.tokenizer, "model": model})).model
    added = {token.content for token in files.added_tokens()}
    words = [text for text in model["vocab"] if text not in added]
    return [word for word in words if len(merging.tokenize(word)) != 1]

"""SentencePiece Unigram vocabularies (GGUF's "t5" model) from tokenizer.model or tokenizer.json."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gguf import TokenType

from hubquant.errors import NotSupportedYet, TokenizerError
from hubquant.vocab.bpe import MAX_TOKENS, lay_out
from hubquant.vocab.files import Files
from hubquant.vocab.sentencepiece import SentencePieceModel
from hubquant.vocab.special import around, chat_templates, notes, parts_twice, special_ids
from hubquant.vocab.spm import ESCAPE, PREFIX, SPACE, ids_of_model, is_byte, members, plain, usual_specials
from hubquant.vocab.vocabulary import Vocabulary

ADDED_SCORE = -10000.0
_RUNS = {"Regex": " {2,}"}
EDGES = "^ +| +$"
_IN_BYTES = "t5encoder"
"""Programs for pictures run it too, and write unknown text in bytes as SentencePiece does."""


@dataclass(frozen=True)
class _Text:
    """What is done to a text before it is split."""

    charsmap: bytes
    add_space_prefix: bool
    remove_extra_whitespaces: bool


def read_from_model(files: Files, model: SentencePieceModel) -> Vocabulary:
    """A folder that has no tokenizer.json."""
    _check(files, byte_fallback=model.byte_fallback, suffix=model.treat_whitespace_as_suffix)
    ids = ids_of_model(files, model)
    text = _Text(model.charsmap, model.add_dummy_prefix, model.remove_extra_whitespaces)
    scores = {piece.text: piece.score for piece in model.pieces}
    types = {piece.text: piece.type for piece in model.pieces if piece.type != TokenType.NORMAL}
    return _vocabulary(files, ids, scores, types, text)


def read_from_json(files: Files) -> Vocabulary:
    """tokenizer.json's list of pieces and scores. Raises ``TokenizerError`` for what llama.cpp cannot do."""
    model = files.tokenizer["model"]
    _check(files, byte_fallback=bool(model.get("byte_fallback")), suffix=False)
    pieces = model.get("vocab")
    if not isinstance(pieces, list) or len(pieces) > MAX_TOKENS or not all(map(_is_piece, pieces)):
        raise TokenizerError("the tokenizer's vocabulary cannot be read", why="it is no list of pieces and scores")
    scores = {text: float(score) for text, score in pieces}
    if len(scores) != len(pieces):
        raise TokenizerError("two ids of the vocabulary have the same text", why="llama.cpp refuses such a file")
    ids = {text: id for id, text in enumerate(scores)}
    ids = files.join(ids)
    unknown = model.get("unk_id")
    if not isinstance(unknown, int) or not 0 <= unknown < len(pieces):
        raise TokenizerError("the tokenizer has no token for unknown text", why="llama.cpp needs one for Unigram")
    # Whether tokenizer.json says byte_fallback or is older than that: SentencePiece has such pieces for nothing else.
    text_encoder = files.facts.architecture == _IN_BYTES
    known = {text: int(TokenType.BYTE) for text in scores if text_encoder and is_byte(text)}
    known[pieces[unknown][0]] = int(TokenType.UNKNOWN)
    return _vocabulary(files, ids, scores, known, _text(files.tokenizer))


def _vocabulary(
    files: Files, ids: dict[str, int], scores: Mapping[str, float], known: Mapping[str, int], text: _Text
) -> Vocabulary:
    tokens, types = lay_out(ids, files)
    added = {token.content for token in files.added_tokens}
    for piece, type in known.items():
        if ids.get(piece, len(types)) < len(types) and (piece not in added or type == TokenType.UNKNOWN):
            types[ids[piece]] = type
    specials = special_ids(files, ids)
    unknowns = [id for id, type in enumerate(types) if type == TokenType.UNKNOWN]
    if not unknowns:
        raise TokenizerError("the tokenizer has no token for unknown text", why="llama.cpp needs one for Unigram")
    specials["unk"] = unknowns[0]
    if not files.tokenizer:
        usual_specials(specials, ids)
    add_bos, add_eos = around(files, specials, default_bos=False)
    return Vocabulary(
        model="t5",
        # llama.cpp looks for these in the text as it stands, before spaces are escaped.
        tokens=tuple(
            token.replace(SPACE, " ") if type == TokenType.USER_DEFINED else token
            for token, type in zip(tokens, types, strict=True)
        ),
        types=tuple(types),
        scores=tuple(scores.get(token, ADDED_SCORE) for token in tokens),
        specials=specials,
        add_bos=add_bos,
        add_eos=add_eos,
        add_space_prefix=text.add_space_prefix,
        remove_extra_whitespaces=text.remove_extra_whitespaces,
        charsmap=text.charsmap,
        add_sep=files.facts.n_token_types > 0 and parts_twice(files),
        n_token_types=files.facts.n_token_types,
        chat_templates=chat_templates(files),
        notes=notes(files, ids),
    )


def _check(files: Files, *, byte_fallback: bool, suffix: bool) -> None:
    if byte_fallback and files.facts.architecture != _IN_BYTES:
        raise NotSupportedYet(
            "Unigram tokenizers with bytes", why="llama.cpp writes unknown text as one token for them"
        )
    if suffix:
        raise NotSupportedYet("tokenizers with spaces at the end of words")


def _is_piece(piece: Any) -> bool:
    return (
        isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], str) and isinstance(piece[1], int | float)
    )


def _text(tokenizer: Mapping[str, Any]) -> _Text:
    """``TokenizerError`` unless llama.cpp treats text alike."""
    normalizers = [plain(each) for each in members(tokenizer.get("normalizer"), "normalizers")]
    splits = [plain(each) for each in members(tokenizer.get("pre_tokenizer"), "pretokenizers")]
    charsmap = _charsmap(normalizers.pop(0)) if normalizers and normalizers[0].get("type") == "Precompiled" else b""
    # As hubquant builds tokenizers from GGUF files: with the escape beside the normalizers, not within Metaspace.
    escapes = normalizers[-1:] == [ESCAPE] and normalizers.pop() == ESCAPE
    prefixed = escapes and normalizers[-1:] == [PREFIX] and normalizers.pop() == PREFIX
    strips = [each for each in normalizers if each.get("type") == "Strip" or each.get("pattern") == {"Regex": EDGES}]
    runs = [each for each in normalizers if each.get("pattern") == _RUNS and each.get("content") in (" ", SPACE)]
    words = splits[:1] == [{"type": "WhitespaceSplit"}]
    metaspace = splits[-1] if splits else {}
    fits = (
        len(strips) + len(runs) == len(normalizers)
        and len(splits) == 1 + words
        and metaspace.get("type") == "Metaspace"
        and metaspace.get("replacement", SPACE) == SPACE
    )
    prefix = prefixed or (
        metaspace.get("prepend_scheme", "always") != "never" and metaspace.get("add_prefix_space", True)
    )
    if fits and (prefix or not (words or runs)):
        return _Text(charsmap, bool(prefix), bool(words or runs))
    steps = [str(step.get("type")) for step in (*normalizers, *splits)]
    raise TokenizerError(
        "the tokenizer treats text in a way that llama.cpp does not",
        why=f"it has {' then '.join(steps) or 'no step'}; Unigram has Precompiled, WhitespaceSplit, then Metaspace",
    )


def _charsmap(precompiled: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(precompiled.get("precompiled_charsmap") or "", validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise TokenizerError("the tokenizer's table of replacements cannot be read", why=str(error)) from error

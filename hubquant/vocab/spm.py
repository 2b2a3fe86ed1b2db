"""SentencePiece BPE vocabularies (GGUF's "llama" model) from tokenizer.model, tokenizer.json or both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import TokenType

from hubquant.errors import NotSupportedYet, TokenizerError
from hubquant.vocab.bpe import lay_out, merge_pairs, token_ids
from hubquant.vocab.files import Files
from hubquant.vocab.sentencepiece import BPE, SentencePieceModel, read_model
from hubquant.vocab.special import around, chat_templates, notes, special_ids
from hubquant.vocab.vocabulary import Vocabulary

SPACE = "▁"
ADDED_SCORE = -1000.0
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREFIX = {"type": "Prepend", "prepend": SPACE}
# Gemma's: nothing is left to split once spaces are escaped.
_NO_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def read_from_model(files: Files, model: SentencePieceModel) -> Vocabulary:
    """A folder without tokenizer.json."""
    _check_model(model)
    ids = ids_of_model(files, model)
    return _vocabulary(files, ids, model, model.add_dummy_prefix)


def ids_of_model(files: Files, model: SentencePieceModel) -> dict[str, int]:
    """Pieces, and the tokens that the files beside the model add or put in their place."""
    ids = {piece.text: id for id, piece in enumerate(model.pieces)}
    for token in files.added_tokens:
        if token.id < len(model.pieces):
            ids.pop(model.pieces[token.id].text, None)
        ids[token.content] = token.id
    return files.join(ids)


def read_from_json(files: Files, path: Path) -> Vocabulary:
    """tokenizer.json decides; tokenizer.model at ``path``, when it is there and belongs to it, gives the scores."""
    add_space_prefix = space_prefix(files.tokenizer)
    ids = token_ids(files)
    model = None
    if path.is_file():
        try:
            model = read_model(path)
        except TokenizerError:
            model = None  # a tiktoken file of that name
    if model is not None and (model.algorithm != BPE or not _belongs(model, ids)):
        model = None
    return _vocabulary(files, ids, model, add_space_prefix)


def _vocabulary(
    files: Files, ids: dict[str, int], model: SentencePieceModel | None, add_space_prefix: bool
) -> Vocabulary:
    tokens, types = lay_out(ids, files)
    added = {token.id for token in files.added_tokens}
    scores = [ADDED_SCORE] * len(tokens)
    if model is not None:
        for id, piece in enumerate(model.pieces[: len(tokens)]):
            if tokens[id] == piece.text:
                scores[id] = piece.score
                if id not in added or piece.type not in (TokenType.NORMAL, TokenType.USER_DEFINED):
                    types[id] = piece.type
    else:
        scores = _scores_of_merges(files.tokenizer["model"], ids, scores)
        unknown = files.tokenizer["model"].get("unk_token")
        for id, text in enumerate(tokens):
            if text == unknown:
                types[id] = int(TokenType.UNKNOWN)
            elif is_byte(text):
                types[id] = int(TokenType.BYTE)
    # llama.cpp looks for these in the text as it stands, before spaces are escaped.
    tokens = [
        text.replace(SPACE, " ") if type == TokenType.USER_DEFINED else text
        for text, type in zip(tokens, types, strict=True)
    ]
    specials = special_ids(files, ids)
    unknowns = [id for id, type in enumerate(types) if type == TokenType.UNKNOWN]
    if unknowns:
        specials.setdefault("unk", unknowns[0])
    if not files.tokenizer:
        usual_specials(specials, ids)
    add_bos, add_eos = around(files, specials, default_bos=not files.tokenizer)
    return Vocabulary(
        model="llama",
        tokens=tuple(tokens),
        types=tuple(types),
        scores=tuple(scores),
        specials=specials,
        add_bos=add_bos,
        add_eos=add_eos,
        add_space_prefix=add_space_prefix,
        n_token_types=files.facts.n_token_types,
        chat_templates=chat_templates(files),
        notes=notes(files, ids),
    )


def _check_model(model: SentencePieceModel) -> None:
    if model.algorithm != BPE:
        raise NotSupportedYet("SentencePiece tokenizers that are neither BPE nor Unigram")
    if model.charsmap or model.remove_extra_whitespaces:
        raise TokenizerError(
            "the tokenizer changes text in a way that llama.cpp does not",
            why="tokenizer.model normalizes characters" if model.charsmap else "tokenizer.model removes extra spaces",
        )


def _belongs(model: SentencePieceModel, ids: Mapping[str, int]) -> bool:
    """Whether the pieces are those of tokenizer.json, but for a few that were given other texts."""
    same = sum(ids.get(piece.text) == id for id, piece in enumerate(model.pieces))
    return same >= len(model.pieces) - max(len(model.pieces) // 100, 8)


def space_prefix(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a text is given a leading space. ``TokenizerError`` unless llama.cpp treats text alike."""
    normalizers = [plain(each) for each in members(tokenizer.get("normalizer"), "normalizers")]
    splits = [plain(each) for each in members(tokenizer.get("pre_tokenizer"), "pretokenizers")]
    if splits == [_NO_SPLIT] and ESCAPE in normalizers:
        splits = []
    if normalizers in ([PREFIX, ESCAPE], [ESCAPE]) and not splits:
        return PREFIX in normalizers
    metaspace = splits[0] if len(splits) == 1 and splits[0].get("type") == "Metaspace" else {}
    unsplit = metaspace.get("replacement") == SPACE and metaspace.get("split") is False
    if not normalizers and unsplit and metaspace.get("prepend_scheme") in ("first", "always", "never"):
        return bool(metaspace["prepend_scheme"] != "never")
    steps = [str(step.get("type")) for step in (*normalizers, *splits)]
    raise TokenizerError(
        "the tokenizer treats text in a way that llama.cpp does not",
        why=f"it has {' then '.join(steps) or 'no step'}; SentencePiece has Prepend then Replace, or Metaspace",
    )


def members(part: Any, key: str) -> list[Mapping[str, Any]]:
    if not isinstance(part, dict):
        return []
    members = part.get(key, []) if part.get("type") == "Sequence" else [part]
    return [member for member in members if isinstance(member, dict)]


def plain(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != "trim_offsets"}


def _scores_of_merges(model: Mapping[str, Any], ids: Mapping[str, int], scores: list[float]) -> list[float]:
    """SentencePiece's scores from the order of the merges: the earlier a piece is made, the higher.

    Pieces that no merge makes, single characters among them, come last.
    """
    ranks: dict[str, int] = {}
    for left, right in merge_pairs(model):
        ranks.setdefault(left + right, len(ranks))
    for text, id in ids.items():
        if id < len(scores):
            scores[id] = float(-ranks.get(text, len(ranks)))
    return scores


def is_byte(text: str) -> bool:
    return _BYTE.fullmatch(text) is not None


def usual_specials(specials: dict[str, int], ids: Mapping[str, int]) -> None:
    for role, text in (("bos", "<s>"), ("eos", "</s>")):
        if text in ids:
            specials.setdefault(role, ids[text])

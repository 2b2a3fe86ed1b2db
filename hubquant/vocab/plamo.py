"""PLaMo's vocabulary (GGUF's "plamo2" model): the pieces of a text with the highest sum of scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from gguf import TokenType

from hubquant.errors import TokenizerError
from hubquant.vocab.bpe import MAX_TOKENS
from hubquant.vocab.files import Files, check_size, of_another_model
from hubquant.vocab.special import around, chat_templates, listed, notes, special_ids
from hubquant.vocab.vocabulary import Vocabulary

FILE = "tokenizer.jsonl"
_TURN = "<|plamo:op|>"  # begins a turn, and so ends the one before
_BREAKS = ("break_around_repeated_chars_threshold", "break_around_consecutive_spaces_threshold")
_TYPES = {
    "NORMAL": TokenType.NORMAL,
    "UNKNOWN": TokenType.UNKNOWN,
    "CONTROL": TokenType.CONTROL,
    "BYTE": TokenType.BYTE,
}
_UNUSED_SCORE = -1000.0


def read_plamo(files: Files) -> Vocabulary:
    """``TokenizerError`` for a file of another kind."""
    found = _read(files.folder / FILE)
    rows = len(found) if files.facts.rows is None else files.facts.rows
    if not len(found) <= rows <= MAX_TOKENS:
        raise of_another_model(len(found), rows)
    ids = {text: id for id, (text, _, _) in enumerate(found)}
    if missing := [byte for byte in range(0x100) if f"<0x{byte:02X}>" not in ids]:
        raise TokenizerError(f"{FILE} has no token for the byte {missing[0]}", why="llama.cpp needs one for each")
    n_unused = rows - len(found)
    specials = special_ids(files, ids)
    add_bos, add_eos = around(files, specials, default_bos=False)  # as PLaMo's own tokenizers have it
    return Vocabulary(
        model="plamo2",
        tokens=(*ids, *(f"[PAD{number}]" for number in range(1, n_unused + 1))),
        types=(*(type for _, _, type in found), *n_unused * (TokenType.UNUSED,)),
        scores=(*(score for _, score, _ in found), *n_unused * (_UNUSED_SCORE,)),
        specials={**specials, **({"eot": ids[_TURN]} if _TURN in ids else {})},
        add_bos=add_bos,
        add_eos=add_eos,
        chat_templates=chat_templates(files),
        notes=(*notes(files, ids), *_breaks(files)),
    )


def _breaks(files: Files) -> Iterator[str]:
    """Of PLaMo 3."""
    told = files.tokenizer_config.model_extra or {}
    if named := [name for name in _BREAKS if told.get(name)]:
        yield (
            f"llama.cpp cuts a text with many equal characters in a row otherwise than the tokenizer, which sets "
            f"{listed(named)}"
        )


def _read(path: Path) -> list[tuple[str, float, TokenType]]:
    """Lines of a text, its score and its type."""
    check_size(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        found = [_piece(line) for line in lines if line.strip()]
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise TokenizerError(f"{path.name} cannot be read", why=str(error).splitlines()[0]) from error
    if len({text for text, _, _ in found}) != len(found):
        raise TokenizerError(f"two lines of {path.name} have the same text", why="llama.cpp refuses such a file")
    return found


def _piece(line: str) -> tuple[str, float, TokenType]:
    text, score, kind, *_ = json.loads(line)
    if not isinstance(text, str):
        raise ValueError(f"{line[:60]!r} is no piece")
    type = _TYPES[kind]
    if type == TokenType.NORMAL and text.startswith("<|plamo:") and text.endswith("|>"):
        type = TokenType.CONTROL
    return text, float(score), type

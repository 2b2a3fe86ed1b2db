"""RWKV's World vocabulary (GGUF's "rwkv" model): the longest byte sequence that fits is the next token."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from gguf import TokenType

from hubquant.errors import TokenizerError
from hubquant.vocab.bpe import MAX_TOKENS
from hubquant.vocab.files import Files, check_size, of_another_model
from hubquant.vocab.special import chat_templates
from hubquant.vocab.vocabulary import Vocabulary

FILE = "rwkv_vocab_v20230424.txt"
END = "<s>"
_PARAGRAPH = b"\n\n"  # ends a turn of a conversation
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPED = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def read_rwkv(files: Files) -> Vocabulary:
    """Tokens from 1 on are the file's, 0 begins and ends a text. ``TokenizerError`` for a file of another kind."""
    found = _read(files.folder / FILE)
    rows = len(found) + 1 if files.facts.rows is None else files.facts.rows
    if not len(found) < rows <= MAX_TOKENS:
        raise of_another_model(len(found) + 1, rows)
    if missing := [byte for byte in range(0x100) if bytes([byte]) not in found]:
        raise TokenizerError(f"{FILE} has no token for the byte {missing[0]}", why="every text has to have tokens")
    n_unused = rows - len(found) - 1
    texts = [repr(token)[2:-1] for token in found]
    turn = {"eot": found.index(_PARAGRAPH) + 1} if _PARAGRAPH in found else {}
    return Vocabulary(
        model="rwkv",
        tokens=(END, *texts, *(f"[PAD{id}]" for id in range(len(found) + 1, rows))),
        types=(TokenType.CONTROL, *len(found) * (TokenType.NORMAL,), *n_unused * (TokenType.UNUSED,)),
        specials={"bos": 0, "eos": 0, **turn},
        chat_templates=chat_templates(files),
    )


def unescaped(text: str) -> bytes:
    """The bytes of a token, which GGUF holds as Python writes them."""
    return _ESCAPE.sub(
        lambda match: bytes([int(match[1], 16)]) if match[1] else _ESCAPED.get(match[2], match[2]), text.encode()
    )


def _read(path: Path) -> list[bytes]:
    """Lines of a number from 1 on, a Python literal of text or bytes, and how many bytes these are."""
    check_size(path)
    try:
        return [_token(id, line) for id, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1) if line]
    except (OSError, ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise TokenizerError(f"{path.name} cannot be read", why=str(error).splitlines()[0]) from error


def _token(id: int, line: str) -> bytes:
    number, _, rest = line.partition(" ")
    literal, _, length = rest.rpartition(" ")
    token = ast.literal_eval(literal)
    token = token.encode() if isinstance(token, str) else token
    if int(number) != id or not isinstance(token, bytes) or len(token) != int(length):
        raise ValueError(f"line {id} is {line[:60]!r}")
    return token

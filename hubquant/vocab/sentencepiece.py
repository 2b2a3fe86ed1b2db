"""Reads tokenizer.model, SentencePiece's protobuf, as far as GGUF needs it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gguf import TokenType

from hubquant.errors import TokenizerError

UNIGRAM, BPE = 1, 2
MAX_PIECES = 1 << 22
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Piece:
    """``type`` is a ``gguf.TokenType`` number; SentencePiece numbers its types alike."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class SentencePieceModel:
    """Pieces by id, the algorithm (``UNIGRAM`` or ``BPE``) and what is done to a text before it is split."""

    pieces: tuple[Piece, ...]
    algorithm: int = UNIGRAM
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    treat_whitespace_as_suffix: bool = False
    byte_fallback: bool = False


def read_model(path: Path) -> SentencePieceModel:
    """Field numbers are those of sentencepiece_model.proto. ``TokenizerError`` for any other file."""
    try:
        return _parse(path.read_bytes())
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise TokenizerError(
            f"{path.name} is not a SentencePiece model", why=str(error).splitlines()[0] if str(error) else None
        ) from error


def _parse(data: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    settings: dict[str, int] = {}
    charsmap = b""
    for number, value in _fields(data):
        if not isinstance(value, bytes):
            continue
        if number == 1:
            pieces.append(_piece(value))
        elif number == 2:
            settings |= _numbers(value, {3: "algorithm", 24: "treat_whitespace_as_suffix", 35: "byte_fallback"})
        elif number == 3:
            settings |= _numbers(value, {3: "add_dummy_prefix", 4: "remove_extra_whitespaces"})
            charsmap = next((v for n, v in _fields(value) if n == 2 and isinstance(v, bytes)), b"")
    if not 0 < len(pieces) <= MAX_PIECES:
        raise ValueError(f"it has {len(pieces)} pieces")
    return SentencePieceModel(
        tuple(pieces),
        settings.get("algorithm", UNIGRAM),
        charsmap,
        bool(settings.get("add_dummy_prefix", 1)),
        bool(settings.get("remove_extra_whitespaces", 1)),
        bool(settings.get("treat_whitespace_as_suffix", 0)),
        bool(settings.get("byte_fallback", 0)),
    )


def _numbers(data: bytes, names: Mapping[int, str]) -> dict[str, int]:
    return {names[number]: value for number, value in _fields(data) if number in names and isinstance(value, int)}


def _piece(data: bytes) -> Piece:
    text, score, type = "", 0.0, int(TokenType.NORMAL)
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            text = value.decode()
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            type = int(TokenType(value))
    return Piece(text, score, type)


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, value
        elif wire == _FIXED32:
            yield number, float(struct.unpack_from("<f", data, position)[0])
            position += 4
        elif wire == _FIXED64:
            position += 8
        elif wire == _BYTES:
            length, position = _varint(data, position)
            if length > len(data) - position:
                raise ValueError("it ends inside a field")
            yield number, data[position : position + length]
            position += length
        else:
            raise ValueError(f"it has wire type {wire}")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it has a number that does not end")

"""GPT-2's letters for the 256 bytes, in which byte-level BPE writes its tokens."""

from __future__ import annotations


def _letters() -> tuple[str, ...]:
    """Bytes that can be seen stand for themselves, the others follow after them."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in seen else next(others)) for byte in range(0x100))


_LETTERS = _letters()


def written(token: bytes) -> str:
    return "".join(_LETTERS[byte] for byte in token)

"""Names of files and of the Hub as people may read them: without characters that would do something on a terminal."""

from __future__ import annotations


def plain(text: str) -> str:
    """One line: line breaks, control characters, bidirectional overrides and lone surrogates become escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else escaped(c) for c in text)


def escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

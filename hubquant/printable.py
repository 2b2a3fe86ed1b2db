"""Names of files and of the Hub as people may read them: without characters that would do something on a terminal."""

from __future__ import annotations

LONGEST_WORD = 240  # characters of a path or a value that is repeated in a message
LONGEST_MESSAGE = 2000


def plain(text: str) -> str:
    """One line: line breaks, control characters, bidirectional overrides and lone surrogates become escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else escaped(c) for c in text)


def message(text: str) -> str:
    """As ``plain``, and words and sentences that no one would read are cut."""
    words = plain(" ".join(text.splitlines())).split(" ")
    return _cut(" ".join(_cut(word, LONGEST_WORD) for word in words), LONGEST_MESSAGE)


def table(text: str) -> str:
    """As ``plain``, line by line."""
    return "\n".join(map(plain, text.split("\n")))


def escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end]}…{text[-end:]}"

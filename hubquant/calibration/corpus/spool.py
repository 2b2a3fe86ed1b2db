"""Documents of one source and language on disk, one line of JSON each, so that a killed process can go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hubquant.calibration.sources import Document
from hubquant.disk import write_all, writing

LeftOut = Literal["duplicate", "blank"]
END = "end"


@dataclass(frozen=True)
class Record:
    """A document, and how much it counts: tokens, or characters where there is no tokenizer."""

    document: Document
    size: int


Entry = Record | LeftOut


class Spool:
    """What was found of a source, in its order, also what is left out: so much of the source is done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_complete = False

    def recover(self) -> Iterator[Entry]:
        """What an earlier process has found. What it was writing when it ended is cut off."""
        whole = 0
        try:
            for line, entry in self._lines():
                whole += len(line)
                if entry == END:
                    self.is_complete = True
                    return
                yield _entry(entry)
        except FileNotFoundError:
            return
        with writing(self.path), self.path.open("rb+") as file:
            file.truncate(whole)

    def write(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """Append ``entries`` as they are taken, and that there are no more."""
        with writing(self.path):
            file = self.path.open("ab", buffering=0)
        with file:
            for entry in entries:
                found = {"size": entry.size, "document": entry.document} if isinstance(entry, Record) else entry
                with writing(self.path):
                    write_all(file, json.dumps(found, ensure_ascii=False).encode() + b"\n")
                yield entry
            with writing(self.path):
                write_all(file, json.dumps(END).encode() + b"\n")
        self.is_complete = True

    def records(self) -> Iterator[Record]:
        """Of a complete one, what is not left out."""
        for _, entry in self._lines():
            if isinstance(entry, dict):
                yield Record(entry["document"], entry["size"])

    def _lines(self) -> Iterator[tuple[bytes, Any]]:
        """Up to the first line that is not whole."""
        with self.path.open("rb") as file:
            for line in file:
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    return
                if entry is None:
                    return
                yield line, entry


def _entry(entry: Any) -> Entry:
    return Record(entry["document"], entry["size"]) if isinstance(entry, dict) else entry

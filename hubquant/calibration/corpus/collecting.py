"""The documents of every source and language, one after the other: counted, without blank ones and duplicates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from hubquant.calibration.corpus.duplicates import NearDuplicates
from hubquant.calibration.corpus.spool import Entry, Record, Spool
from hubquant.calibration.sources import Document, documents, is_one_text, plain_text
from hubquant.engine.progress import Progress
from hubquant.errors import CalibrationError
from hubquant.recipe.schema import TextSource

_PARAGRAPHS = re.compile(r"(?<=\n\n)(?!\n)")
_LINES = re.compile(r"(?<=\n)(?!$)")


@dataclass(frozen=True)
class Stream:
    """One language of a source, "" where the source has none; ``group`` is the number of the source."""

    source: TextSource
    lang: str
    group: int
    n_langs: int

    @property
    def share(self) -> float:
        """Of the whole, relative to the other streams."""
        return self.source.weight / self.n_langs

    @property
    def name(self) -> str:
        return f"{self.source.display_name} {self.lang}".strip()


@dataclass
class Counts:
    """Of a stream; ``size`` is that of the ``documents``, in tokens or characters."""

    documents: int = 0
    size: int = 0
    duplicates: int = 0
    blank: int = 0

    @property
    def done(self) -> int:
        return self.documents + self.duplicates + self.blank

    def add(self, entry: Entry) -> None:
        if isinstance(entry, Record):
            self.documents += 1
            self.size += entry.size
        elif entry == "duplicate":
            self.duplicates += 1
        else:
            self.blank += 1


def streams_of(sources: Sequence[TextSource]) -> list[Stream]:
    return [
        Stream(one, lang, group, max(1, len(source.langs)))
        for group, source in enumerate(sources)
        for lang, one in source.by_language.items()
    ]


class Collector:
    """``count`` is the size of a text; no stream is read on when it has ``most``. With ``duplicates`` what is nearly
    the same as an earlier document of any stream is left out. ``seed`` decides what is random in sources."""

    def __init__(
        self,
        count: Callable[[str], int],
        duplicates: NearDuplicates | None,
        seed: int,
        progress: Progress,
        most: int | None = None,
    ) -> None:
        self._count, self._duplicates, self._seed, self._progress = count, duplicates, seed, progress
        self._most = most

    def collect(self, stream: Stream, spool: Spool | None) -> Counts:
        """Go through a stream, from where ``spool`` ends; streams must come in the same order every time.

        Raises ``CalibrationError`` for a source that cannot be read or has nothing that is left.
        """
        counts = Counts()
        for entry in spool.recover() if spool else ():
            counts.add(entry)
            if isinstance(entry, Record) and self._duplicates is not None:
                self._duplicates.add(plain_text(entry.document))
        if spool is None or not spool.is_complete:
            entries = self._entries(stream, replace(counts))
            self._watched(stream, spool.write(entries) if spool else entries, counts)
        if not counts.documents:
            raise _nothing(stream, counts)
        return counts

    def _entries(self, stream: Stream, before: Counts) -> Iterator[Entry]:
        size = before.size
        found = islice(_documents(stream.source, self._seed), before.done, None)
        while self._most is None or size < self._most:
            if (document := next(found, None)) is None:
                return
            text = plain_text(document)
            if not text or text.isspace():
                yield "blank"
            elif self._duplicates is not None and not self._duplicates.add(text):
                yield "duplicate"
            else:
                record = Record(document, self._count(text))
                size += record.size
                yield record

    def _watched(self, stream: Stream, entries: Iterator[Entry], counts: Counts) -> None:
        if stream.source.samples is None:
            with self._progress.doing(f"reading {stream.name}"):
                for entry in entries:
                    counts.add(entry)
            return
        with self._progress.bar(stream.name, stream.source.samples, "documents") as advance:
            advance(counts.done)
            for entry in entries:
                counts.add(entry)
                advance(1)


def _documents(source: TextSource, seed: int) -> Iterator[Document]:
    if not is_one_text(source):
        yield from documents(source, seed)
        return
    for text in documents(source, seed):
        yield from cut(plain_text(text))


def cut(text: str) -> list[str]:
    """One text as documents, which joined are ``text``: cut after blank lines, or where there are none at each line."""
    pieces = _PARAGRAPHS.split(text)
    return pieces if len(pieces) > 1 else _LINES.split(text)


def _nothing(stream: Stream, counts: Counts) -> CalibrationError:
    what = f"{stream.source.display_name} has no text" + (f" for {stream.lang!r}" if stream.lang else "")
    if counts.duplicates:
        why = f"each of its {counts.duplicates:,} documents is nearly the same as an earlier one of another source"
        return CalibrationError(what, why=why, hint="leave it out, or keep what is doubled with --keep-duplicates")
    return CalibrationError(what, hint="leave it out, or check the place where its texts should be")


def open_spools(folder: Path, streams: Sequence[Stream]) -> list[Spool]:
    return [Spool(folder / f"{number:04d}.jsonl") for number in range(len(streams))]

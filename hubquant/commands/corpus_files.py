"""The files of a corpus: plain text, or rows of JSON with the language and the source."""

from __future__ import annotations

import json
from pathlib import Path

from hubquant.calibration.corpus.collecting import Stream
from hubquant.calibration.corpus.spool import Record
from hubquant.calibration.sources import plain_text
from hubquant.commands.corpus_report import FilePart
from hubquant.disk import sync, writing


class PartWriter:
    """Writes ``path``, in ``folder`` until it is whole. ``.jsonl`` and ``.ndjson`` have rows; conversations stay lists
    of messages there, and are their messages' lines in plain text."""

    SUFFIXES = (".txt", ".jsonl", ".ndjson", ".raw", ".md")

    def __init__(self, path: Path, folder: Path) -> None:
        self._path, self._temporary = path, folder / f"{path.name}.part"
        self._has_rows = path.suffix.lower() in (".jsonl", ".ndjson")
        self.documents = self.size = 0
        with writing(path):
            self._file = self._temporary.open("wb")

    def write(self, record: Record, stream: Stream) -> None:
        text = self._row(record, stream) if self._has_rows else plain_text(record.document)
        with writing(self._path):
            self._file.write(text.encode() if text.endswith("\n") else text.encode() + b"\n")
        self.documents += 1
        self.size += record.size

    def finish(self, part: str) -> FilePart:
        """Put the whole file in its place."""
        with writing(self._path):
            self._file.close()
            sync(self._temporary)
            n_bytes = self._temporary.stat().st_size
            self._temporary.replace(self._path)
            sync(self._path.parent)
        return FilePart(self._path, part, self.documents, self.size, n_bytes)

    def close(self) -> None:
        """Also after the disk was full, when what is buffered cannot be written."""
        try:
            self._file.close()
        except OSError:
            self._file.detach()

    def _row(self, record: Record, stream: Stream) -> str:
        document = record.document
        text = document.rstrip("\n") if isinstance(document, str) else document
        lang = {"lang": stream.lang} if stream.lang else {}
        return json.dumps({"text": text, **lang, "source": stream.source.display_name}, ensure_ascii=False)

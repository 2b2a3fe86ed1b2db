"""What ``hubquant dataset build`` tells of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubquant.calibration.corpus.collecting import Counts
from hubquant.calibration.overlap import Overlap
from hubquant.printable import plain
from hubquant.units import counted, size


@dataclass(frozen=True)
class SourcePart:
    """Of a source and language: what was ``found``, and what is ``used`` of it, None where nothing is written."""

    source: str
    lang: str | None
    found: Counts
    used: Counts | None


@dataclass(frozen=True)
class FilePart:
    """``part`` is "test" or "pool"."""

    path: Path
    part: str
    documents: int
    size: int
    n_bytes: int


@dataclass(frozen=True)
class Evaluated:
    """How much of the text called ``name`` stands in the pool too."""

    name: str
    overlap: Overlap


@dataclass(frozen=True)
class CorpusReport:
    """Sizes are tokens of ``tokenizer``, or characters where that is None."""

    sources: Sequence[SourcePart]
    files: Sequence[FilePart]
    evaluated: Evaluated | None
    tokenizer: str | None
    seed: int

    @property
    def unit(self) -> str:
        return "tokens" if self.tokenizer else "characters"

    def as_dict(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "tokenizer": self.tokenizer,
            "seed": self.seed,
            "sources": [self._source(each) for each in self.sources],
            "languages": self._languages(),
            "files": [
                {
                    "path": str(file.path),
                    "part": file.part,
                    "documents": file.documents,
                    self.unit: file.size,
                    "bytes": file.n_bytes,
                }
                for file in self.files
            ],
            "overlap": None
            if self.evaluated is None
            else {
                "with": self.evaluated.name,
                "lines": self.evaluated.overlap.lines,
                "shared": self.evaluated.overlap.shared,
                "example": self.evaluated.overlap.example,
            },
        }

    def __str__(self) -> str:
        has_used = any(each.used for each in self.sources)
        head = ["source", "language", "documents", self.unit, "duplicates", "blank"]
        rows = [[*head, *(["used", f"{self.unit} used"] if has_used else [])]]
        for each in self.sources:
            found = [each.found.documents, each.found.size, each.found.duplicates, each.found.blank]
            used = [each.used.documents, each.used.size] if each.used else []
            rows.append([plain(each.source), each.lang or "", *(f"{value:,}" for value in [*found, *used])])
        lines = [*_aligned(rows), ""] if len(rows) > 1 else []
        for lang, value in self._languages().items() if len(self._languages()) > 1 else ():
            lines.append(f"{lang}: {value:,} {self.unit}")
        for file in self.files:
            name = plain(str(file.path))
            lines.append(
                f"{name}  {counted(file.documents, 'document')}, {file.size:,} {self.unit}, {size(file.n_bytes)}"
            )
        if self.evaluated is not None:
            found_lines = self.evaluated.overlap
            lines.append(
                f"overlap: {found_lines.shared:,} of {found_lines.lines:,} long lines of {plain(self.evaluated.name)}"
                " stand in the calibration text too"
            )
        return "\n".join(lines)

    def _source(self, each: SourcePart) -> dict[str, Any]:
        found, used = each.found, each.used
        told = {
            "source": each.source,
            "lang": each.lang,
            "documents": found.documents,
            self.unit: found.size,
            "duplicates": found.duplicates,
            "blank": found.blank,
        }
        return told if used is None else {**told, "used": {"documents": used.documents, self.unit: used.size}}

    def _languages(self) -> dict[str, int]:
        """The size of each, as far as it is used."""
        sizes: dict[str, int] = {}
        for each in self.sources:
            if each.lang:
                sizes[each.lang] = sizes.get(each.lang, 0) + (each.used or each.found).size
        return sizes


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]

"""What a run has made and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from hubquant.publish.checks import llama_cpp_checks
from hubquant.publish.recommendation import MeasuredFile, recommend
from hubquant.publish.table import NARROW, plain, table

if TYPE_CHECKING:
    from hubquant.evaluate import TensorCheck


TERMINAL = 80  # columns


@dataclass(frozen=True)
class FileReport:
    """``measured.file`` is relative to the output folder; ``worst_tensor`` is the one nearest to its type's limit;
    ``gate`` is the bound on the mean KLD that the recipe sets."""

    measured: MeasuredFile
    worst_tensor: TensorCheck
    gate: float | None

    @property
    def passed(self) -> bool:
        divergence = self.measured.divergence
        return self.gate is None or divergence is None or divergence.kld.mean <= self.gate

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self.measured),
            "worst_tensor": asdict(self.worst_tensor),
            "runtime": str(self.measured.runtime),
            "gate": self.gate,
            "passed": self.passed,
        }


@dataclass(frozen=True)
class Report:
    """``files`` from the largest to the smallest; ``url`` is where they were published."""

    model: str
    output: Path
    files: Sequence[FileReport]
    url: str | None = None

    @property
    def passed(self) -> list[FileReport]:
        return [file for file in self.files if file.passed]

    @property
    def failed_gates(self) -> list[FileReport]:
        return [file for file in self.files if not file.passed]

    def published(self, url: str) -> Report:
        return replace(self, url=url)

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "output": str(self.output),
            "url": self.url,
            "files": [file.as_dict() for file in self.files],
        }

    def text(self) -> str:
        """The table of sizes and measurements, what to make of it, what llama.cpp said, and where the files are."""
        files = [file.measured for file in self.files]
        lines = [plain(table(files, NARROW))]
        if any(file.divergence for file in files):
            width = max(len(file.type) for file in files)
            published = [file.measured for file in self.passed]
            sentences = recommend(published)
            lines += [*(f"{file.type:<{width}}  {sentences[file.file]}" for file in published), ""]
        lines += [fill(sentence, TERMINAL, break_on_hyphens=False) for sentence in llama_cpp_checks(files)]
        for file in self.failed_gates:
            lines.append(f"{file.measured.type} is not published: its mean KLD is above {file.gate}")
        return "\n".join([*lines, "", f"files in {self.output}", *([self.url] if self.url else [])])

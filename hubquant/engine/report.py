"""What a run has made and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubquant.evaluate import Divergence, TensorCheck


@dataclass(frozen=True)
class FileReport:
    """``path`` is relative to the output folder; ``gate`` is the bound on the mean KLD that the recipe sets."""

    path: str
    ftype: str
    size: int
    bpw: float
    divergence: Divergence | None
    worst_tensor: TensorCheck
    runtime: str
    gate: float | None

    @property
    def passed(self) -> bool:
        return self.gate is None or self.divergence is None or self.divergence.kld.mean <= self.gate

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "type": self.ftype,
            "size": self.size,
            "bpw": self.bpw,
            "divergence": asdict(self.divergence) if self.divergence else None,
            "worst_tensor": asdict(self.worst_tensor),
            "runtime": self.runtime,
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
        """The table of sizes and measurements, and where the files are."""
        lines = [
            f"{'type':<8} {'size':>10} {'bpw':>6} {'mean KLD':>10} {'99.9 % KLD':>10} {'same top':>8} {'PPL':>8} {'ratio':>7}"
        ]
        lines += [_row(file) for file in self.files]
        for file in self.failed_gates:
            lines.append(f"{file.ftype} is not published: its mean KLD is above {file.gate}")
        return "\n".join([*lines, "", str(self.output), *([self.url] if self.url else [])])


def _row(file: FileReport) -> str:
    row = f"{file.ftype:<8} {file.size / 1e6:>7.2f} MB {file.bpw:>6.3f}"
    measured = file.divergence
    if measured is None:
        return row
    return (
        f"{row} {measured.kld.mean:>10.6f} {measured.kld.percentiles[99.9]:>10.5f} {measured.same_top:>8.2%} "
        f"{measured.ppl.ppl:>8.3f} {measured.ratio:>7.4f}"
    )

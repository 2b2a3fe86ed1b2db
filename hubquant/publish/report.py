"""What a run has made and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from hubquant.errors import UserError
from hubquant.publish.checks import checks
from hubquant.publish.html import html_table, paragraphs, picture
from hubquant.publish.recommendation import MeasuredFile, measure_of, recommend
from hubquant.publish.table import RECOMMENDATION, TEXT_COLUMNS, narrow, plain, table

if TYPE_CHECKING:
    import pandas

    from hubquant.evaluate import TensorCheck


TERMINAL = 80  # columns


@dataclass(frozen=True)
class FileReport:
    """``measured.file`` is relative to the output folder; ``worst_tensor`` is the one nearest to its type's limit, None
    of a folder, whose tensors are its library's;
    ``gate`` is the bound that the recipe sets: on the mean KLD, of an encoder on the mean cosine, or of a denoiser
    on the error of its predictions."""

    measured: MeasuredFile
    worst_tensor: TensorCheck | None
    gate: float | None

    @property
    def passed(self) -> bool:
        similarity, distance = self.measured.similarity, self.measured.distance
        if similarity:
            return self.gate is None or similarity.cosine >= self.gate
        return self.gate is None or distance is None or distance <= self.gate

    @property
    def refusal(self) -> str:
        """Why it is not published, where it did not pass."""
        bounded = "mean cosine" if self.measured.similarity else "mean KLD"
        bounded = "prediction error" if self.measured.fidelity else bounded
        return f"its {bounded} is {'below' if self.measured.similarity else 'above'} {self.gate}"

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self.measured),
            "worst_tensor": self.worst_tensor and asdict(self.worst_tensor),
            "runtime": str(self.measured.runtime),
            "gate": self.gate,
            "passed": self.passed,
        }


@dataclass(frozen=True)
class Report:
    """``files`` from the largest to the smallest, and paths of the ``projectors`` beside them; ``url`` is where they
    were published."""

    model: str
    output: Path
    files: Sequence[FileReport]
    url: str | None = None
    projectors: Sequence[str] = ()

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
            "projectors": list(self.projectors),
        }

    @property
    def table(self) -> MeasurementTable:
        """What was measured, as numbers."""
        return MeasurementTable.of(self.files)

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        """For notebooks: the table, and the plot of sizes and divergences."""
        files = [file.measured for file in self.files]
        measured = any(file.distance is not None for file in files)
        columns = (*narrow(files), RECOMMENDATION) if measured else narrow(files)
        parts = [html_table(table(files, columns), TEXT_COLUMNS)]
        if measured:
            from hubquant.publish.plot import plot

            parts.append(picture(plot(files, self.model), f"file size and {measure_of(files).name} of {self.model}"))
        return "".join([*parts, paragraphs([*checks(files), *self._refused(), *self._places()])])

    def text(self) -> str:
        """The table of sizes and measurements, what to make of it, what programs said, and where the files are."""
        files = [file.measured for file in self.files]
        lines = [plain(table(files, narrow(files)))]
        if any(file.distance is not None for file in files):
            width = max(len(file.type) for file in files)
            published = [file.measured for file in self.passed]
            sentences = recommend(published)
            lines += [*(f"{file.type:<{width}}  {sentences[file.file]}" for file in published), ""]
        lines += [fill(sentence, TERMINAL, break_on_hyphens=False) for sentence in checks(files)]
        return "\n".join([*lines, *self._refused(), "", *self._places()])

    def _refused(self) -> list[str]:
        return [f"{file.measured.type} is not published: {file.refusal}" for file in self.failed_gates]

    def _places(self) -> list[str]:
        seeing = [f"to see or hear with: {name}" for name in self.projectors]
        return [*seeing, f"files in {self.output}", *([self.url] if self.url else [])]


@dataclass(frozen=True)
class MeasurementTable:
    """A row by file with these columns: ``file``, ``type``, ``size`` in bytes, ``bpw`` in bits per weight, ``passed``
    its gate; and of the divergence from the source, each with its standard error in ``…_error``: ``kld_mean`` in nats,
    ``kld_in_llamacpp`` likewise,
    ``same_top`` as a share of one, ``ppl``, ``ppl_ratio``; and ``kld_99_9``, the percentile. Of an encoder, likewise
    with errors, ``cosine_mean`` and ``spearman``, and ``cosine_1``, the percentile. Of a denoiser ``prediction_error``
    with its error, ``drift``, ``psnr`` in dB, ``ssim``, and ``with_imatrix``. Of the machine that it ran
    on ``load_seconds``, ``peak_bytes`` of memory and ``tokens_per_second``. None where it was not measured."""

    rows: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, files: Sequence[FileReport]) -> MeasurementTable:
        return cls(tuple(_row(file) for file in files))

    def to_pandas(self) -> pandas.DataFrame:
        """Raises ``UserError`` where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise UserError("pandas is not installed", hint="pip install pandas, or use report.table.rows") from None
        return pandas.DataFrame(list(self.rows))


def _row(file: FileReport) -> dict[str, Any]:
    measured = file.measured
    found, runtime, alike = measured.divergence, measured.in_llamacpp, measured.similarity
    drawn, speed = measured.fidelity, measured.speed
    return {
        "file": measured.file,
        "type": measured.type,
        "size": measured.size,
        "bpw": measured.bpw,
        "passed": file.passed,
        "kld_mean": found and found.kld.mean,
        "kld_mean_error": found and found.kld.error,
        "kld_99_9": found and found.kld.percentiles[99.9],
        "same_top": found and found.same_top,
        "same_top_error": found and found.same_top_error,
        "kld_in_llamacpp": runtime and runtime.kld.mean,
        "kld_in_llamacpp_error": runtime and runtime.kld.error,
        "ppl": found and found.ppl.ppl,
        "ppl_error": found and found.ppl.error,
        "ppl_ratio": found and found.ratio,
        "ppl_ratio_error": found and found.ratio_error,
        "cosine_mean": alike and alike.cosine,
        "cosine_mean_error": alike and alike.cosine_error,
        "cosine_1": alike and alike.percentile_1,
        "spearman": alike and alike.spearman,
        "spearman_error": alike and alike.spearman_error,
        "prediction_error": drawn and drawn.error,
        "prediction_error_error": drawn and drawn.standard_error,
        "drift": drawn and drawn.drift,
        "psnr": drawn and drawn.psnr,
        "ssim": drawn and drawn.ssim,
        "with_imatrix": measured.with_imatrix,
        "load_seconds": speed and speed.load_seconds,
        "peak_bytes": speed and speed.peak_bytes,
        "tokens_per_second": speed and speed.tokens_per_second,
    }

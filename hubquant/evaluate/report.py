"""From measurements to a table and a recommendation for each file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubquant.evaluate.divergence import Divergence


@dataclass(frozen=True)
class MeasuredFile:
    """``size`` in bytes, all shards together; ``divergence`` is None for a file that was not measured."""

    file: str
    type: str
    size: int
    bpw: float
    divergence: Divergence | None


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


COLUMNS = ("File", "Type", "Size", "bpw", "Mean KLD", "99.9 % KLD", "Same top token", "PPL ratio", "Recommendation")
TEXT_COLUMNS = ("File", "Type", "Recommendation")
MISSING = "–"

# Mean KLD up to which a file is called so. For scale: stock Q8_0, Q6_K, Q4_K_M, Q3_K_M and Q2_K of Llama-3-8B have
# 0.0014, 0.0055, 0.028, 0.084 and 0.33.
QUALITY = (
    (0.002, "as good as the source"),
    (0.01, "hardly distinguishable from the source"),
    (0.05, "small losses"),
    (0.15, "noticeable losses"),
    (0.5, "large losses: only when memory is short"),
    (math.inf, "very large losses"),
)
RECOMMENDED_KLD = 0.05


def table(files: Sequence[MeasuredFile]) -> Table:
    """One row per file, in the order given."""
    recommendations = recommend(files)
    return Table(COLUMNS, tuple((*_measured_cells(file), recommendations[file.file]) for file in files))


def recommend(files: Sequence[MeasuredFile]) -> dict[str, str]:
    """A sentence for each file name, from its mean KLD and those of the others.

    A file that is farther from the source than one that is no larger is not worth its size. Of the others, the
    smallest with a mean KLD of at most ``RECOMMENDED_KLD`` is recommended, or if there is none the nearest.
    """
    klds = {file.file: file.divergence.kld.mean for file in files if file.divergence}
    measured = [file for file in files if file.divergence]
    nearer = {file.file: _nearest_within(file, measured, klds) for file in measured}
    front = [file for file in measured if not nearer[file.file]]
    best = _best(front, klds)
    sentences = dict.fromkeys((file.file for file in files), "not measured")
    for file in measured:
        sentence = next(text for limit, text in QUALITY if klds[file.file] <= limit)
        if file is best:
            good = klds[file.file] <= RECOMMENDED_KLD
            sentence = f"recommended: {sentence}" if good else f"{sentence}; the best of these"
        elif other := nearer[file.file]:
            sentence = f"{sentence}; {other.type} is not larger and nearer to the source"
        sentences[file.file] = sentence
    return sentences


def _nearest_within(
    file: MeasuredFile, others: Sequence[MeasuredFile], klds: Mapping[str, float]
) -> MeasuredFile | None:
    """Of the files that are no larger and nearer to the source, the nearest."""
    nearer = [other for other in others if other.size <= file.size and klds[other.file] < klds[file.file]]
    return min(nearer, key=lambda other: klds[other.file], default=None)


def _best(front: Sequence[MeasuredFile], klds: Mapping[str, float]) -> MeasuredFile | None:
    good = [file for file in front if klds[file.file] <= RECOMMENDED_KLD]
    if good:
        return min(good, key=lambda file: (file.size, klds[file.file]))
    return min(front, key=lambda file: klds[file.file], default=None)


def plain(table: Table) -> str:
    """Columns aligned with spaces."""
    lines = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        [
            cell.ljust(width) if name in TEXT_COLUMNS else cell.rjust(width)
            for cell, width, name in zip(line, widths, table.columns, strict=True)
        ]
        for line in lines
    ]
    return "".join("  ".join(line).rstrip() + "\n" for line in aligned)


def divergence_table(measured: Divergence) -> str:
    """The statistics that llama-perplexity prints, in its order, as aligned lines."""
    kld, delta_p = measured.kld, measured.delta_p
    lines = [
        ("scored tokens", f"{measured.n_tokens}"),
        ("PPL", f"{measured.ppl.ppl:.4f} ± {measured.ppl.error:.4f}"),
        ("PPL of the source", f"{measured.ppl_base.ppl:.4f} ± {measured.ppl_base.error:.4f}"),
        ("correlation of ln PPL", f"{measured.correlation:.2%}"),
        ("PPL ratio", f"{measured.ratio:.6f} ± {measured.ratio_error:.6f}"),
        ("PPL difference", f"{measured.difference:.6f} ± {measured.difference_error:.6f}"),
        ("KLD mean", f"{kld.mean:.6f} ± {kld.error:.6f}"),
        ("KLD maximum", f"{kld.maximum:.6f}"),
        *((f"KLD {percent:g} %", f"{kld.percentiles[percent]:.6f}") for percent in (99.9, 99.0, 95.0, 90.0)),
        ("KLD median", f"{kld.median:.6f}"),
        ("KLD minimum", f"{kld.minimum:.6f}"),
        ("Δp mean", f"{delta_p.mean:.3%} ± {delta_p.error:.3%}"),
        ("Δp RMS", f"{measured.delta_p_rms:.3%} ± {measured.delta_p_rms_error:.3%}"),
        ("Δp maximum", f"{delta_p.maximum:.3%}"),
        *((f"Δp {percent:g} %", f"{delta_p.percentiles[percent]:.3%}") for percent in (99.0, 95.0, 5.0, 1.0)),
        ("Δp minimum", f"{delta_p.minimum:.3%}"),
        ("same top token", f"{measured.same_top:.2%} ± {measured.same_top_error:.2%}"),
    ]
    width = max(len(name) for name, _ in lines)
    return "".join(f"{name:<{width}}  {value}\n" for name, value in lines)


def _measured_cells(file: MeasuredFile) -> tuple[str, ...]:
    head = (file.file, file.type, format_size(file.size), f"{file.bpw:.2f}")
    if file.divergence is None:
        return (*head, *(MISSING,) * 4)
    kld = file.divergence.kld
    ratio, error = file.divergence.ratio, file.divergence.ratio_error
    return (
        *head,
        significant(kld.mean),
        significant(kld.percentiles[99.9]),
        f"{file.divergence.same_top:.2%}".replace("%", " %"),
        f"{ratio:.4f} ± {error:.4f}",
    )


def format_size(n_bytes: int) -> str:
    """Decimal units, as the Hub shows sizes."""
    if n_bytes >= 1e9:
        return f"{n_bytes / 1e9:.2f} GB"
    return f"{n_bytes / 1e6:.1f} MB"


def significant(value: float, digits: int = 3) -> str:
    """Without an exponent, at most eight decimals: 0.0283, 1.39."""
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(decimals, 0), 8)}f}"

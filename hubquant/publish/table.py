"""Measurements as tables: one for a terminal and for the card, one with every statistic of one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.publish.recommendation import MeasuredFile, recommend
from hubquant.units import measured, number, share, size

if TYPE_CHECKING:
    from hubquant.evaluate import Divergence, Similarity, Stop
    from hubquant.evaluate.pictures import Fidelity
    from hubquant.evaluate.speed import Speed

Cell = Callable[[MeasuredFile], str]

MISSING = "–"
FILE, RECOMMENDATION, MEMORY = "File", "Recommendation", "Memory"
TEXT_COLUMNS = (FILE, "Type", RECOMMENDATION, "Text")
BY_CHUNK = (90.0, 95.0, 99.0, 99.9)
OF_FILES: Mapping[str, Cell] = {
    FILE: lambda file: file.file,
    "Type": lambda file: file.type,
    "Size": lambda file: size(file.size),
    "bpw": lambda file: f"{file.bpw:.2f}",
}
OF_MEASUREMENTS: Mapping[str, Callable[[Divergence], str]] = {
    "Mean KLD": lambda found: measured(found.kld.mean, found.kld.error),
    "99.9 % KLD": lambda found: number(found.kld.percentiles[99.9]),
    "Same top token": lambda found: share(found.same_top, found.same_top_error),
    "PPL ratio": lambda found: measured(found.ratio, found.ratio_error),
}
OF_SIMILARITIES: Mapping[str, Callable[[Similarity], str]] = {
    "Mean cosine": lambda found: measured(found.cosine, found.cosine_error),
    "1 % cosine": lambda found: f"{found.percentile_1:.5f}",
    "Rank correlation": lambda found: measured(found.spearman, found.spearman_error),
}
OF_FIDELITIES: Mapping[str, Callable[[Fidelity], str]] = {
    "Prediction error": lambda found: measured(found.error, found.standard_error),
    "Drift": lambda found: MISSING if found.drift is None else number(found.drift, 2),
    "PSNR": lambda found: MISSING if found.psnr is None else f"{found.psnr:.1f} dB",
    "SSIM": lambda found: MISSING if found.ssim is None else f"{found.ssim:.3f}",
}
TOKENS = "Tokens/s"
OF_SPEEDS: Mapping[str, Callable[[Speed], str]] = {
    "Loads in": lambda found: f"{number(found.load_seconds, 2)} s",
    "Peak memory": lambda found: size(found.peak_bytes),
    TOKENS: lambda found: MISSING if found.tokens_per_second is None else number(found.tokens_per_second),
}
IN_LLAMA_CPP, WITH_IMATRIX = "KLD in llama.cpp", "Imatrix"
# The first ones are what the column of a model's page on the Hub has room for; the table scrolls.
COLUMNS = (
    *OF_FILES,
    *(
        "Mean KLD",
        "Mean cosine",
        "Rank correlation",
        "Prediction error",
        RECOMMENDATION,
        "99.9 % KLD",
        "Same top token",
        "PPL ratio",
    ),
    *(IN_LLAMA_CPP, "1 % cosine"),
    *(WITH_IMATRIX, "Drift", "PSNR", "SSIM"),
    *OF_SPEEDS,
)


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def table(files: Sequence[MeasuredFile], columns: Sequence[str] = COLUMNS) -> Table:
    """One row per file, in the order given; where nothing was measured, without the columns of measurements."""
    if not any(file.divergence for file in files):
        columns = [name for name in columns if name not in OF_MEASUREMENTS]
    if not any(file.similarity for file in files):
        columns = [name for name in columns if name not in OF_SIMILARITIES]
    if not any(file.fidelity for file in files):
        columns = [name for name in columns if name not in OF_FIDELITIES]
    if all(file.with_imatrix is None for file in files):
        columns = [name for name in columns if name != WITH_IMATRIX]
    if all(file.distance is None for file in files):
        columns = [name for name in columns if name in (*OF_FILES, *OF_SPEEDS)]
    if not any(file.speed for file in files):
        columns = [name for name in columns if name not in OF_SPEEDS]
    if not any(file.speed and file.speed.tokens_per_second is not None for file in files):
        columns = [name for name in columns if name != TOKENS]
    if not any(file.in_llamacpp for file in files):
        columns = [name for name in columns if name != IN_LLAMA_CPP]
    recommendations = recommend(files)

    def cell(file: MeasuredFile, column: str) -> str:
        if column == RECOMMENDATION:
            return recommendations[file.file]
        if column in OF_FILES:
            return OF_FILES[column](file)
        if column == IN_LLAMA_CPP:
            return OF_MEASUREMENTS["Mean KLD"](file.in_llamacpp) if file.in_llamacpp else MISSING
        if column == WITH_IMATRIX:
            return MISSING if file.with_imatrix is None else "yes" if file.with_imatrix else "no"
        if column in OF_SPEEDS:
            return OF_SPEEDS[column](file.speed) if file.speed else MISSING
        if column in OF_FIDELITIES:
            return OF_FIDELITIES[column](file.fidelity) if file.fidelity else MISSING
        if column in OF_SIMILARITIES:
            return OF_SIMILARITIES[column](file.similarity) if file.similarity else MISSING
        return OF_MEASUREMENTS[column](file.divergence) if file.divergence else MISSING

    return Table(tuple(columns), tuple(tuple(cell(file, column) for column in columns) for file in files))


def files_table(files: Sequence[tuple[str, Divergence]]) -> Table:
    """What was measured of files without a type or a size, by their names."""
    rows = tuple((name, *(cell(found) for cell in OF_MEASUREMENTS.values())) for name, found in files)
    return Table((FILE, *OF_MEASUREMENTS), rows)


def similarities_table(files: Sequence[tuple[str, Similarity]]) -> Table:
    """What was measured of files of encoders, by their names."""
    rows = tuple((name, *(cell(found) for cell in OF_SIMILARITIES.values())) for name, found in files)
    return Table((FILE, *OF_SIMILARITIES), rows)


def similarity_table(found: Similarity) -> str:
    """Every statistic of one file of an encoder, as aligned lines."""
    lines = (
        ("texts", f"{found.n_texts}, of {found.n_tokens} tokens"),
        ("pooling", found.pooling),
        ("cosine mean", f"{found.cosine:.6f} ± {found.cosine_error:.6f}"),
        ("cosine minimum", f"{found.minimum:.6f}"),
        ("cosine 1 %", f"{found.percentile_1:.6f}"),
        ("cosine 5 %", f"{found.percentile_5:.6f}"),
        ("cosine median", f"{found.median:.6f}"),
        ("rank correlation", f"{found.spearman:.6f} ± {found.spearman_error:.6f} over {found.n_pairs} pairs"),
    )
    width = max(len(name) for name, _ in lines)
    return "".join(f"{name:<{width}}  {value}\n" for name, value in lines)


def narrow(files: Sequence[MeasuredFile]) -> tuple[str, ...]:
    """The columns that fit the 80 of a terminal."""
    if any(file.similarity for file in files):
        return ("Type", "Size", "bpw", *OF_SIMILARITIES)
    if any(file.fidelity for file in files):
        return ("Type", "Size", "bpw", WITH_IMATRIX, *OF_FIDELITIES)
    last = IN_LLAMA_CPP if any(file.in_llamacpp for file in files) else "PPL ratio"
    return ("Type", "Size", "bpw", "Mean KLD", "Same top token", last)


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


def markdown(table: Table) -> str:
    sides = ["---" if name in TEXT_COLUMNS else "---:" for name in table.columns]
    return "".join(f"| {' | '.join(line)} |\n" for line in (table.columns, sides, *table.rows))


def divergence_table(measured: Divergence) -> str:
    """The statistics that llama-perplexity prints, in its order, as aligned lines; after them the composite score, and
    what each text has where several have a name."""
    kld, delta_p = measured.kld, measured.delta_p
    lines = [
        ("scored tokens", f"{measured.n_tokens}"),
        ("PPL", f"{measured.ppl.ppl:.4f} ± {measured.ppl.error:.4f}"),
        ("PPL of the source", f"{measured.ppl_base.ppl:.4f} ± {measured.ppl_base.error:.4f}"),
        ("correlation of ln PPL", f"{measured.correlation:.2%}"),
        ("PPL ratio", f"{measured.ratio:.6f} ± {measured.ratio_error:.6f}"),
        ("PPL difference", f"{measured.difference:.6f} ± {measured.difference_error:.6f}"),
        ("KLD mean", f"{kld.mean:.6f} ± {kld.error:.6f}"),
        *_bound(measured),
        *_block_error(measured),
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
        *([("composite score", _composite(measured))] if measured.composite is not None else []),
        *([("stopped", _stop(measured.stop))] if measured.stop else []),
        *([("chunks", _spread(measured))] if len(measured.chunks) > 1 else []),
    ]
    width = max(len(name) for name, _ in lines)
    text = "".join(f"{name:<{width}}  {value}\n" for name, value in lines)
    return f"{text}\n{plain(texts_table(measured))}" if measured.texts else text


def texts_table(measured: Divergence) -> Table:
    """A row for each text that has a name."""
    columns = ("Text", "Tokens", *OF_MEASUREMENTS, "Composite score")
    rows = tuple(
        (name, f"{found.n_tokens:,}", *(cell(found) for cell in OF_MEASUREMENTS.values()), _composite(found))
        for name, found in measured.texts.items()
    )
    return Table(columns, rows)


def by_text(files: Sequence[MeasuredFile]) -> Table | None:
    """The mean KLD of each file on each text that has a name; None where none has one."""
    names = dict.fromkeys(name for file in files if file.divergence for name in file.divergence.texts)
    if not names:
        return None

    def cell(file: MeasuredFile, text: str) -> str:
        found = file.divergence.texts.get(text) if file.divergence else None
        return OF_MEASUREMENTS["Mean KLD"](found) if found else MISSING

    return Table(("Type", *names), tuple((file.type, *(cell(file, name) for name in names)) for file in files))


def chunk_table(measured: Divergence) -> Table:
    """The divergences of each chunk."""
    rows = tuple(
        (
            f"{n}",
            f"{chunk.mean:.6f} ± {chunk.error:.6f}",
            f"{chunk.median:.6f}",
            *(f"{chunk.percentiles[percent]:.6f}" for percent in BY_CHUNK),
            f"{chunk.maximum:.6f}",
        )
        for n, chunk in enumerate(measured.chunks, 1)
    )
    return Table(("Chunk", "Mean KLD", "Median", *(f"{percent:g} %" for percent in BY_CHUNK), "Maximum"), rows)


def _bound(measured: Divergence) -> list[tuple[str, str]]:
    bound = measured.kld_bound
    return [] if bound is None else [("KLD mean, by whole distributions", f"within {bound:.1e} of it, 99.9 % sure")]


def _block_error(measured: Divergence) -> list[tuple[str, str]]:
    error = measured.kld_block_error
    return [] if error is None else [("KLD mean, by chunks", f"{measured.kld.mean:.6f} ± {error:.6f}")]


def _composite(measured: Divergence) -> str:
    error = "" if measured.composite_error is None else f" ± {measured.composite_error:.6f}"
    return f"{measured.composite:.6f}{error}"


def _stop(stop: Stop) -> str:
    reached = f"after {stop.chunks} of {stop.of} chunks" if stop.reached else f"never: {stop.of} chunks are too few"
    return f"{reached}; at {stop.confidence:.1%} KLD mean ± {stop.kld:.1%}, composite score ± {stop.composite:.1%}"


def _spread(measured: Divergence) -> str:
    means = [chunk.mean for chunk in measured.chunks]
    return f"{len(means)}, with a mean KLD of {min(means):.6f} to {max(means):.6f}"

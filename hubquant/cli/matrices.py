"""``hubquant imatrix merge``, ``convert``, ``show`` and ``diff``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.units import counted

if TYPE_CHECKING:
    from hubquant.imatrix import ImportanceMatrix

MatrixArgument = Annotated[
    str, Argument(metavar="FILE", help="An imatrix in GGUF or .dat format, a file or hub:org/repo/file.")
]
OutOption = Annotated[Path, Option("--out", "-o", help="The file to write: .dat is the old format, any other GGUF.")]


def merge(
    files: Annotated[list[str], Argument(metavar="FILE", help="Matrices, each a file or hub:org/repo/file.")],
    out: OutOption,
    weights: Annotated[
        list[float] | None,
        Option("--weight", "-w", help="Counts a file's tokens so many times; once for each file, in their order."),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Add importance matrices of one model up; each weighs as many tokens as it saw."""
    from hubquant.commands.matrices import merge as merge_matrices

    output = Output(as_json=as_json, quiet=quiet)
    _say_written(merge_matrices(files, weights, out, output.progress()), out, output)


def convert(file: MatrixArgument, out: OutOption, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Write an importance matrix as GGUF or .dat."""
    from hubquant.commands.matrices import convert as convert_matrix

    output = Output(as_json=as_json, quiet=quiet)
    _say_written(convert_matrix(file, out, output.progress()), out, output)


def show(
    file: MatrixArgument,
    plot: Annotated[Path | None, Option("--plot", help="Also draw a heat map by block and tensor to this PNG.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Print what an importance matrix is from and its statistics, as llama-imatrix --show-statistics does."""
    from hubquant.commands.matrices import plot as plot_matrix
    from hubquant.commands.matrices import read
    from hubquant.imatrix import facts_table, statistics, statistics_table

    matrix = read(file)
    found = statistics(matrix)
    if plot is not None:
        plot_matrix(found, Path(file).name, plot)
    Output(as_json=as_json, quiet=quiet).data(
        {**matrix.facts(), **found.as_dict()}, lambda: f"{facts_table(matrix)}\n\n{statistics_table(found)}"
    )


def diff(
    first: Annotated[str, Argument(metavar="A", help="An imatrix, a file or hub:org/repo/file.")],
    second: Annotated[str, Argument(metavar="B", help="The one to compare with.")],
    tolerance: Annotated[float, Option(min=0, help="Relative differences up to this count as none.")] = 0.0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare two importance matrices. Exit code 0: equal, 1: they differ, 2: they cannot be compared."""
    from hubquant.commands.matrices import read
    from hubquant.imatrix import difference, difference_table

    found = difference(read(first), read(second))
    equal = found.within(tolerance)
    Output(as_json=as_json, quiet=quiet).data(
        {"equal": equal, **found.as_dict()}, lambda: difference_table(found, tolerance)
    )
    if not equal:
        raise Exit(1)


def _say_written(matrix: ImportanceMatrix, out: Path, output: Output) -> None:
    output.data(
        {"path": str(out), "entries": len(matrix.entries), "chunks": matrix.chunk_count},
        f"{out}  {counted(len(matrix.entries), 'tensor')}, {counted(matrix.chunk_count, 'chunk')}",
    )

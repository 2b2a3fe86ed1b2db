"""``hubquant imatrix``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.run import PreTokenizerOption

app = typer.Typer(no_args_is_help=True, help="Collect and read importance matrices.", rich_markup_mode=None)

TextOption = Annotated[
    list[str] | None, typer.Option("--file", "-f", help="A text, jsonl or parquet file or a Hub dataset. Repeatable.")
]


@app.command()
def collect(
    model: Annotated[str, typer.Argument(metavar="MODEL|FILE.gguf", help="A Hub id, a folder, or a GGUF file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The imatrix file to write.")],
    texts: TextOption = None,
    chunks: Annotated[int, typer.Option(min=1, help="At most this many chunks.")] = 250,
    chunk_size: Annotated[int, typer.Option(min=16, help="Tokens in a chunk.")] = 512,
    process_output: Annotated[bool, typer.Option("--process-output", help="Collect output.weight too.")] = False,
    pre_tokenizer: PreTokenizerOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a model over calibration text and save the importance of every weight column."""
    from hubquant.engine.alone import collect_imatrix

    output = Output(as_json=as_json, quiet=quiet)
    matrix = collect_imatrix(
        model, texts or [], out, chunks, chunk_size, process_output, pre_tokenizer, output.progress()
    )
    output.data(
        {"path": str(out), "entries": len(matrix.entries), "chunks": matrix.chunk_count},
        f"{out}  {len(matrix.entries)} tensors, {matrix.chunk_count} chunks",
    )


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An imatrix in GGUF or .dat format.")],
    as_json: JsonOption = False,
) -> None:
    """Print the statistics of an importance matrix, as llama-imatrix --show-statistics does."""
    from hubquant.imatrix import ImportanceMatrix, statistics_table

    statistics = ImportanceMatrix.load(file).statistics()
    Output(as_json=as_json).data(statistics.as_dict(), lambda: statistics_table(statistics))

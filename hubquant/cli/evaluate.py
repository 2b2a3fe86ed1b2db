"""``hubquant evaluate``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hubquant.cli.imatrix import TextOption
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.usage import Command, Group

app = typer.Typer(cls=Group, help="Measure perplexity and KL divergence.", rich_markup_mode=None)

ChunksOption = Annotated[int, typer.Option(min=1, help="At most this many chunks.")]
ChunkSizeOption = Annotated[int, typer.Option(min=16, help="Tokens in a chunk; the second half of each is scored.")]


@app.command(cls=Command)
def baseline(
    model: Annotated[str, typer.Argument(metavar="MODEL|FILE.gguf", help="A Hub id, a folder, or a GGUF file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The HDF5 file to write.")],
    texts: TextOption = None,
    chunks: ChunksOption = 48,
    chunk_size: ChunkSizeOption = 512,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Store the source model's predictions on held-out text, to compare files with."""
    from hubquant.commands.measure import baseline as write_baseline

    output = Output(as_json=as_json, quiet=quiet)
    path = write_baseline(model, texts or [], out, chunks, chunk_size, output.progress())
    output.data({"path": str(path)}, str(path))


@app.command("run", cls=Command)
def run_file(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="The file to measure.")],
    baseline: Annotated[Path, typer.Option("--baseline", "-b", help="What `hubquant evaluate baseline` wrote.")],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how far a GGUF file is from its source model."""
    from hubquant.commands.measure import divergence
    from hubquant.publish.table import divergence_table

    output = Output(as_json=as_json, quiet=quiet)
    measured = divergence(file, baseline, output.progress())
    output.data(asdict(measured), lambda: divergence_table(measured))


@app.command(cls=Command)
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.h5", help="The baseline to compare with.")],
    second: Annotated[Path, typer.Argument(metavar="B.h5", help="The baseline of another model on the same text.")],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare two stored baselines of one text."""
    from hubquant.evaluate import compare_baselines
    from hubquant.publish.table import divergence_table

    measured = compare_baselines(first, second)
    Output(as_json=as_json, quiet=quiet).data(asdict(measured), lambda: divergence_table(measured))


@app.command(cls=Command)
def ppl(
    model: Annotated[str, typer.Argument(metavar="FILE.gguf|MODEL", help="A GGUF file, a Hub id or a folder.")],
    texts: TextOption = None,
    chunks: ChunksOption = 48,
    chunk_size: ChunkSizeOption = 512,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure perplexity on a text, as llama-perplexity does."""
    from hubquant.commands.measure import perplexity

    output = Output(as_json=as_json, quiet=quiet)
    measured = perplexity(model, texts or [], chunks, chunk_size, output.progress())
    output.data(asdict(measured), f"perplexity {measured.ppl:.4f} ± {measured.error:.4f} on {measured.n_tokens} tokens")

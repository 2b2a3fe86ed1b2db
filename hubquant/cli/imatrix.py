"""``hubquant imatrix``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hubquant.cli import matrices
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.run import PreTokenizerOption
from hubquant.cli.usage import Command, Group

app = typer.Typer(
    cls=Group, help="Collect, merge, convert, show and compare importance matrices.", rich_markup_mode=None
)


OffloadOption = Annotated[
    Literal["auto", "none", "cpu", "disk", "stream"],
    typer.Option("--offload", help="For models larger than memory; stream has one block in memory at a time."),
]
TextOption = Annotated[
    list[str] | None, typer.Option("--file", "-f", help="A text, jsonl or parquet file or a Hub dataset. Repeatable.")
]


@app.command(cls=Command)
def collect(
    model: Annotated[str, typer.Argument(metavar="MODEL|FILE.gguf", help="A Hub id, a folder, or a GGUF file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The imatrix file to write.")],
    texts: TextOption = None,
    chunks: Annotated[int, typer.Option(min=1, help="At most this many chunks.")] = 250,
    chunk_size: Annotated[int, typer.Option(min=16, help="Tokens in a chunk.")] = 512,
    chunk: Annotated[int, typer.Option("--chunk", "--from-chunk", min=0, help="Skip so many chunks first.")] = 0,
    process_output: Annotated[bool, typer.Option("--process-output", help="Collect output.weight too.")] = False,
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help="Names of special tokens in the text stand for these.")
    ] = False,
    no_ppl: Annotated[bool, typer.Option("--no-ppl", help="Do not compute the perplexity.")] = False,
    output_frequency: Annotated[
        int, typer.Option("--output-frequency", min=0, help="Write what there is to --out every so many chunks.")
    ] = 0,
    save_frequency: Annotated[
        int, typer.Option("--save-frequency", min=0, help="Write it to OUT.at_N every so many chunks.")
    ] = 0,
    shard: Annotated[str | None, typer.Option("--shard", help="One of several parts, to be merged: 2/4.")] = None,
    offload: OffloadOption = "auto",
    max_memory: Annotated[
        list[str] | None,
        typer.Option("--max-memory", help="For --offload cpu or disk: cpu=12GiB, 0=20GiB. Repeatable."),
    ] = None,
    pre_tokenizer: PreTokenizerOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a model over calibration text and save the importance of every weight column."""
    from hubquant.commands.collect import Request, collect_imatrix, parse_max_memory, parse_shard
    from hubquant.recipe.schema import Imatrix

    output = Output(as_json=as_json, quiet=quiet)
    request = Request(
        model,
        out,
        texts or (),
        chunks=chunks,
        chunk_size=chunk_size,
        first_chunk=chunk,
        parse_special=parse_special,
        pre_tokenizer=pre_tokenizer,
        shard=parse_shard(shard) if shard else None,
        perplexity=not no_ppl,
        output_every=output_frequency,
        save_every=save_frequency,
        settings=Imatrix(process_output=process_output, offload=offload, max_memory=parse_max_memory(max_memory or ())),
    )
    matrix = collect_imatrix(request, output.progress())
    output.data(
        {"path": str(out), "entries": len(matrix.entries), "chunks": matrix.chunk_count},
        f"{out}  {len(matrix.entries)} tensors, {matrix.chunk_count} chunks",
    )


app.command("merge", cls=Command)(matrices.merge)
app.command("convert", cls=Command)(matrices.convert)
app.command("show", cls=Command)(matrices.show)
app.command("diff", cls=Command)(matrices.diff)

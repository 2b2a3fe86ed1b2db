"""``hubquant imatrix``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hubquant.cli import matrices
from hubquant.cli.job import DeviceOption, DryRunOption, StoreOption, finish
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.run import PreTokenizerOption
from hubquant.cli.usage import Command, Group
from hubquant.units import counted

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


PromptsOption = Annotated[
    list[str] | None,
    typer.Option("--prompts", help="Of a diffusion model: a file with a prompt a line, or a Hub dataset. Repeatable."),
]
PicturesOption = Annotated[int | None, typer.Option("--pictures", min=1, help="So many are drawn (default: 32).")]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="Denoising steps (default: the model's).")]
SizeOption = Annotated[
    str | None, typer.Option("--size", help="Of a picture in pixels: 1024, or 1024x768 (default: the model's).")
]
FramesOption = Annotated[int | None, typer.Option("--frames", min=1, help="Of a video (default: the model's).")]
GuidanceOption = Annotated[float | None, typer.Option("--guidance", help="The guidance scale (default: the model's).")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Of the first picture's noise (default: 0).")]
AtOnceOption = Annotated[int | None, typer.Option("--at-once", min=1, help="Pictures that are drawn at once.")]
ConvolutionsOption = Annotated[bool, typer.Option("--convolutions", help="Observe the denoiser's convolutions too.")]
KeepPicturesOption = Annotated[
    Path | None, typer.Option("--keep-pictures", help="A new folder for the pictures that were drawn.")
]


@app.command(cls=Command)
def collect(
    model: Annotated[str, typer.Argument(metavar="MODEL|FILE.gguf", help="A Hub id, a folder, or a GGUF file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The imatrix file to write.")],
    texts: TextOption = None,
    in_files: Annotated[
        list[str] | None,
        typer.Option("--in-file", help="A matrix, a file or hub:org/repo/file, that this one is added to. Repeatable."),
    ] = None,
    chunks: Annotated[int, typer.Option(min=1, help="At most this many chunks.")] = 250,
    chunk_size: Annotated[int, typer.Option(min=16, help="Tokens in a chunk.")] = 512,
    chunk: Annotated[int, typer.Option("--chunk", "--from-chunk", min=0, help="Skip so many chunks first.")] = 0,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            "--batch-size",
            "-b",
            min=1,
            help="Tokens that run at a time, in whole chunks (default: what tune found, or 2048).",
        ),
    ] = None,
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
    prompts: PromptsOption = None,
    pictures: PicturesOption = None,
    steps: StepsOption = None,
    size: SizeOption = None,
    frames: FramesOption = None,
    guidance: GuidanceOption = None,
    seed: SeedOption = None,
    at_once: AtOnceOption = None,
    convolutions: ConvolutionsOption = False,
    keep_pictures: KeepPicturesOption = None,
    device: DeviceOption = "auto",
    pre_tokenizer: PreTokenizerOption = None,
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a model over calibration text, or draw pictures, and save the importance of every weight column."""
    from hubquant.commands.collect import Request
    from hubquant.commands.collect import collect as plan_collect
    from hubquant.commands.flags import Text, drawing, parse_max_memory, parse_shard, picture_size, text_sources
    from hubquant.pipeline.importance import Saving
    from hubquant.recipe.schema import Calibration, Imatrix

    sources = text_sources(texts or (), Calibration().sources, parse_special=parse_special)
    request = Request(
        model,
        Text(sources, chunks, chunk_size, chunk),
        Saving(out, output_frequency, save_frequency),
        pre_tokenizer=pre_tokenizer,
        shard=parse_shard(shard) if shard else None,
        perplexity=not no_ppl,
        settings=Imatrix(process_output=process_output, offload=offload, max_memory=parse_max_memory(max_memory or ())),
        device=device,
        batch_tokens=batch,
        in_files=tuple(in_files or ()),
        reads_text=bool(texts),
        drawing=drawing(
            prompts or (),
            {
                "count": pictures,
                "steps": steps,
                "size": None if size is None else picture_size(size),
                "frames": frames,
                "guidance": guidance,
                "seed": seed,
                "batch": at_once,
            },
            convolutions=convolutions,
            keep_pictures=keep_pictures,
        ),
    )
    finish(
        lambda store, progress: plan_collect(request, store, progress),
        store,
        dry_run,
        Output(as_json=as_json, quiet=quiet),
        lambda matrix: {"path": str(out), "entries": len(matrix.entries), "chunks": matrix.chunk_count},
        lambda matrix: f"{out}  {counted(len(matrix.entries), 'tensor')}, {counted(matrix.chunk_count, 'chunk')}",
    )


app.command("merge", cls=Command)(matrices.merge)
app.command("convert", cls=Command)(matrices.convert)
app.command("show", cls=Command)(matrices.show)
app.command("diff", cls=Command)(matrices.diff)

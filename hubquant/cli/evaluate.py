"""``hubquant evaluate``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hubquant.cli.imatrix import TextOption
from hubquant.cli.job import DeviceOption, DryRunOption, StoreOption, finish
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.usage import Command, Group

if TYPE_CHECKING:
    from hubquant.commands.flags import Text
    from hubquant.devices import Device
    from hubquant.evaluate import Divergence, Similarity
    from hubquant.evaluate.choice_files import Test

app = typer.Typer(cls=Group, help="Measure perplexity, KL divergence and scores of tests.", rich_markup_mode=None)

ChunksOption = Annotated[int, typer.Option(min=1, help="At most this many chunks.")]
ChunkSizeOption = Annotated[int, typer.Option(min=16, help="Tokens in a chunk; the second half of each is scored.")]


FirstChunkOption = Annotated[int, typer.Option("--chunk", "--from-chunk", min=0, help="Skip so many chunks first.")]
ModelArgument = Annotated[str, typer.Argument(metavar="FILE.gguf|MODEL", help="A GGUF file, a Hub id or a folder.")]
QuestionsOption = Annotated[
    str | None,
    typer.Option("--file", "-f", help="Tasks in llama-perplexity's format, in jsonl or parquet, or a Hub dataset."),
]
TasksOption = Annotated[
    int | None, typer.Option(min=1, help="Number of tasks to use when computing the score (default: all).")
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Chooses the tasks; 1 as llama-perplexity does.")]
ConfigOption = Annotated[str | None, typer.Option(help="The configuration of a Hub dataset that has several.")]
SplitOption = Annotated[str | None, typer.Option(help="The split of a Hub dataset.")]
WayOption = Annotated[
    Literal["auto", "stored", "streamed"],
    typer.Option("--way", help="For models larger than memory; streamed has one block in memory at a time."),
]
EngineOption = Annotated[
    Literal["torch", "llamacpp", "both"],
    typer.Option(
        "--engine", help="What runs the files; llama.cpp quantizes activations too. both: their difference too."
    ),
]
OF_BOTH = ("weights", "in llama.cpp", "between both")


@app.command(cls=Command)
def baseline(
    model: Annotated[str, typer.Argument(metavar="MODEL|FILE.gguf", help="A Hub id, a folder, or a GGUF file.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The HDF5 file to write; as llama-perplexity does, if it ends in .kld.")
    ],
    texts: TextOption = None,
    chunks: ChunksOption = 48,
    chunk_size: ChunkSizeOption = 512,
    chunk: FirstChunkOption = 0,
    full: Annotated[bool, typer.Option("--full", help="Store all probabilities, not only those that matter.")] = False,
    way: WayOption = "auto",
    device: DeviceOption = "auto",
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Store the source model's predictions on held-out text, to compare files with."""
    from hubquant.commands.measure import baseline as plan_baseline

    text = _text(texts, chunks, chunk_size, chunk)
    finish(
        lambda store, progress: plan_baseline(model, text, out, store, progress, device, full=full, way=way),
        store,
        dry_run,
        Output(as_json=as_json, quiet=quiet),
        lambda path: {"path": str(path)},
        str,
    )


@app.command(cls=Command)
def join(
    parts: Annotated[list[Path], typer.Argument(metavar="A.h5 B.h5...", help="Baselines of parts of one text.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The baseline of all their chunks.")],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Join the baselines of parts of a text, which --from-chunk makes, to one."""
    from hubquant.commands.measure import join as join_parts

    output = Output(as_json=as_json, quiet=quiet)
    joined = join_parts(parts, out, output.progress())
    output.data({**asdict(joined), "path": str(joined.path)}, lambda: str(joined))


@app.command("run", cls=Command)
def run_files(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.gguf...", help="The files to measure.")],
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline",
            "-b",
            metavar="B.h5|MODEL",
            help="What `hubquant evaluate baseline` or llama-perplexity wrote, or the source model: a Hub id, a folder "
            "or a GGUF file.",
        ),
    ],
    texts: TextOption = None,
    chunks: ChunksOption = 48,
    chunk_size: ChunkSizeOption = 512,
    way: WayOption = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the statistics of every token to this HDF5 file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the distribution and the chunks into this folder.")
    ] = None,
    engine: EngineOption = "torch",
    margin: Annotated[
        float | None,
        typer.Option("--margin", help="Stop when mean KLD and composite score are known to this share: .05."),
    ] = None,
    confidence: Annotated[
        float, typer.Option("--confidence", min=0.5, max=0.999, help="How sure they are to be known so well.")
    ] = 0.95,
    by_chunk: Annotated[bool, typer.Option("--by-chunk", help="Print the divergences of each chunk too.")] = False,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how far GGUF files are from their source model."""
    from hubquant.commands.divergence import Baseline, Shown, divergences
    from hubquant.commands.flags import precision
    from hubquant.errors import UserError

    compared = Baseline(baseline, _text(texts, chunks, chunk_size), way, device, engine, precision(margin, confidence))
    if compared.is_stored and (texts or way != "auto"):
        raise UserError(
            f"{'--file' if texts else '--way'} is for a model as the baseline",
            why=f"{baseline} holds predictions on the text that it was written with",
            hint=f"leave it out, or name the model with --baseline in the place of {baseline}",
        )
    finish(
        lambda store, progress: divergences(files, compared, store, progress, Shown(out, plot)),
        store,
        dry_run,
        Output(as_json=as_json, quiet=quiet),
        lambda measured: _divergences_data(files, engine, measured),
        lambda measured: _divergences_text(files, engine, measured, by_chunk),
    )


def _divergences_data(files: list[Path], engine: str, measured: list[Divergence | Similarity]) -> Any:
    if len(measured) == 1:
        return asdict(measured[0])
    if engine == "both":
        names = [{"file": str(file), "measured": what} for file in files for what in OF_BOTH]
    else:
        names = [{"file": str(file)} for file in files]
    return [{**name, **asdict(found)} for name, found in zip(names, measured, strict=True)]


def _divergences_text(files: list[Path], engine: str, found: list[Divergence | Similarity], by_chunk: bool) -> str:
    """One file with all its statistics, several beside each other."""
    from hubquant.evaluate import Divergence
    from hubquant.publish.table import chunk_table, divergence_table, files_table, plain

    measured = [each for each in found if isinstance(each, Divergence)]
    if len(measured) < len(found):
        return _similarities_text(files, [each for each in found if not isinstance(each, Divergence)])
    names = [f"{file.name}{which}" for file in files for which in _engines(engine)]
    named = list(zip(names, measured, strict=True))
    whole = divergence_table(measured[0]) if len(named) == 1 else plain(files_table(named))
    chunks = [f"\n{name}\n{plain(chunk_table(found))}" for name, found in named] if by_chunk else []
    return "".join([whole, *chunks])


def _similarities_text(files: list[Path], measured: list[Similarity]) -> str:
    from hubquant.publish.table import plain, similarities_table, similarity_table

    if len(measured) == 1:
        return similarity_table(measured[0])
    return plain(similarities_table([(file.name, found) for file, found in zip(files, measured, strict=True)]))


def _engines(engine: str) -> list[str]:
    return [f", {what}" for what in OF_BOTH] if engine == "both" else [""]


@app.command(cls=Command)
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.h5", help="The baseline to compare with.")],
    second: Annotated[Path, typer.Argument(metavar="B.h5", help="The baseline of another model on the same text.")],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare two stored baselines where they have the same text; the second must be of --full."""
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
    ppl_stride: Annotated[
        int | None, typer.Option("--ppl-stride", min=1, help="Stride for perplexity calculation, in tokens.")
    ] = None,
    way: WayOption = "auto",
    device: DeviceOption = "auto",
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure perplexity on a text, as llama-perplexity does."""
    from hubquant.commands.measure import perplexity

    text = _text(texts, chunks, chunk_size)
    finish(
        lambda store, progress: perplexity(model, text, store, progress, device, ppl_stride, way),
        store,
        dry_run,
        Output(as_json=as_json, quiet=quiet),
        asdict,
        lambda measured: f"perplexity {measured} on {measured.n_tokens} tokens",
    )


@app.command(cls=Command)
def hellaswag(
    model: ModelArgument,
    file: QuestionsOption = None,
    tasks: Annotated[int, typer.Option(min=1, help="Number of tasks to use when computing the HellaSwag score.")] = 400,
    seed: SeedOption = 1,
    config: ConfigOption = None,
    split: SplitOption = None,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compute HellaSwag score over random tasks, as llama-perplexity --hellaswag does."""
    asked = {"text": file, "config": config, "split": split, "tasks": tasks, "seed": seed}
    _score(model, "hellaswag", asked, device, store, dry_run, Output(as_json=as_json, quiet=quiet))


@app.command(cls=Command)
def winogrande(
    model: ModelArgument,
    file: QuestionsOption = None,
    tasks: TasksOption = None,
    seed: SeedOption = 1,
    config: ConfigOption = None,
    split: SplitOption = None,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compute Winogrande score over random tasks, as llama-perplexity --winogrande does."""
    asked = {"text": file, "config": config, "split": split, "tasks": tasks, "seed": seed}
    _score(model, "winogrande", asked, device, store, dry_run, Output(as_json=as_json, quiet=quiet))


@app.command("multiple-choice", cls=Command)
def multiple_choice(
    model: ModelArgument,
    file: QuestionsOption = None,
    tasks: TasksOption = None,
    seed: SeedOption = 1,
    config: ConfigOption = None,
    split: SplitOption = None,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compute multiple choice score over random tasks (TruthfulQA, ARC, MMLU), as llama-perplexity does."""
    asked = {"text": file, "config": config, "split": split, "tasks": tasks, "seed": seed}
    _score(model, "multiple-choice", asked, device, store, dry_run, Output(as_json=as_json, quiet=quiet))


def _score(
    model: str,
    test: Test,
    asked: dict[str, Any],
    device: Device,
    store: Path | None,
    dry_run: bool,
    output: Output,
) -> None:
    from hubquant.commands.measure import Asked, score

    finish(
        lambda store, progress: score(model, test, Asked(**asked), store, progress, device),
        store,
        dry_run,
        output,
        asdict,
        str,
    )


def _text(texts: list[str] | None, chunks: int, chunk_size: int, first_chunk: int = 0) -> Text:
    from hubquant.commands.flags import Text, text_sources
    from hubquant.recipe.schema import Evaluate

    return Text(text_sources(texts or (), Evaluate().sources), chunks, chunk_size, first_chunk)

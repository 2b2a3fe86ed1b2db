"""``hubquant gguf``, and its commands ``split`` and ``merge``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from hubquant.cli import gguf_metadata, gguf_reading
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.usage import Command, Group
from hubquant.printable import plain
from hubquant.units import counted, size

if TYPE_CHECKING:
    from hubquant.commands.gguf_files import Writing

app = typer.Typer(
    cls=Group, help="Split, merge, change and compare GGUF files without touching their weights.", rich_markup_mode=None
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE.gguf", help="A GGUF file, or the first of its shards.")]
WrittenDryRun = Annotated[bool, Option("--dry-run", help="Show what would be written and stop.")]


@app.command(cls=Command)
def split(
    file: FileArgument,
    out: Annotated[Path, Option("--out", "-o", help="NAME, for files NAME-00001-of-00003.gguf.")],
    split_max_size: Annotated[
        str | None, Option("--split-max-size", help="At most so much in each split: 300M, 4G, 45GiB.")
    ] = None,
    split_max_tensors: Annotated[
        int | None, Option("--split-max-tensors", min=1, help="At most so many tensors in each split (default: 128).")
    ] = None,
    no_tensor_first_split: Annotated[
        bool, Option("--no-tensor-first-split", help="Do not add tensors to the first split.")
    ] = False,
    dry_run: WrittenDryRun = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Split a model into several files, as llama-gguf-split does; the first one has its metadata."""
    from hubquant.commands.gguf_files import parse_limit
    from hubquant.commands.gguf_files import split as plan_split

    limit = parse_limit(split_max_size, split_max_tensors, no_tensor_first=no_tensor_first_split)
    _finish(lambda: plan_split(file, out, limit), dry_run, Output(as_json=as_json, quiet=quiet))


@app.command(cls=Command)
def merge(
    file: Annotated[Path, typer.Argument(metavar="SHARD.gguf", help="One of the shards; the others are beside it.")],
    out: Annotated[Path, Option("--out", "-o", help="The GGUF file to write.")],
    dry_run: WrittenDryRun = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Merge the shards of a model into one file. The shards stay."""
    from hubquant.commands.gguf_files import merge as plan_merge

    _finish(lambda: plan_merge(file, out), dry_run, Output(as_json=as_json, quiet=quiet))


def _finish(prepare: Callable[[], Writing], dry_run: bool, output: Output) -> None:
    from hubquant.commands.gguf_files import carry_out

    writing = prepare()
    if not dry_run:
        carry_out(writing, output.progress())
    output.data(
        writing.as_list(),
        lambda: "\n".join(
            f"{plain(str(path))}  {counted(each.n_tensors, 'tensor')}  {size(each.size)}"
            for path, each in writing.files.items()
        ),
    )


app.command("set", cls=Command)(gguf_metadata.set_value)
app.command("unset", cls=Command)(gguf_metadata.unset)
app.command("new-metadata", cls=Command)(gguf_metadata.new_metadata)
app.command("hash", cls=Command)(gguf_reading.hash_model)
app.command("dump", cls=Command)(gguf_reading.dump)
app.command("copy-types", cls=Command)(gguf_reading.copy_types)

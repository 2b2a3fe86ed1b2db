"""``hubquant convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from hubquant.cli.job import DryRunOption, StoreOption, finish
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.run import PreTokenizerOption
from hubquant.cli.settings import converted_type
from hubquant.units import size

ModelArgument = Annotated[str, Argument(metavar="MODEL", help="A Hub id or a folder.")]


def convert(
    model: ModelArgument,
    out: Annotated[Path, Option("--out", "-o", help="The GGUF file to write, or a folder.")],
    type: Annotated[str | None, Option("--type", "-t", help="F32, F16, BF16 or Q8_0 (default: as the source).")] = None,
    pre_tokenizer: PreTokenizerOption = None,
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert a model to one GGUF file, streaming its tensors."""
    output = Output(as_json=as_json, quiet=quiet)
    chosen = converted_type(type, model) if type else None
    from hubquant.commands.files import convert as plan_convert  # after the type is right: it imports torch

    finish(
        lambda store, progress: plan_convert(model, out, chosen, pre_tokenizer, store, progress),
        store,
        dry_run,
        output,
        lambda made: made[0].as_dict(),
        lambda made: f"{made[0].path}  {made[0].type}  {size(made[0].size)}",
    )

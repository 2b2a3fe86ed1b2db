"""``hubquant convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

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
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert a model to one GGUF file, streaming its tensors."""
    output = Output(as_json=as_json, quiet=quiet)
    chosen = converted_type(type, model) if type else None
    from hubquant.commands.files import convert as convert_model  # after the type is right: it imports torch

    made = convert_model(model, out, chosen, pre_tokenizer, output.progress())
    output.data(made.as_dict(), f"{made.path}  {made.type}  {size(made.size)}")

"""``hubquant convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from hubquant.cli.job import DryRunOption, SplitMaxSizeOption, SplitMaxTensorsOption, StoreOption, finish
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.run import (
    AllowPickleOption,
    ComponentOption,
    MergeOption,
    NoMtpOption,
    PreTokenizerOption,
    TargetOption,
)
from hubquant.cli.settings import converted_type
from hubquant.errors import UserError
from hubquant.units import size

AUTO = "auto"


def convert(
    model: Annotated[str | None, Argument(metavar="MODEL", help="A Hub id or a folder, or an adapter.")] = None,
    out: Annotated[
        Path | None,
        Option(
            "--out",
            "-o",
            "--outfile",
            help="The GGUF file to write, or a folder (default: MODEL-TYPE.gguf here). {ftype} and {FTYPE} in it will "
            "be replaced by the type.",
        ),
    ] = None,
    type: Annotated[
        str | None,
        Option("--type", "-t", "--outtype", help="F32, F16, BF16 or Q8_0 (default, or auto: as the source)."),
    ] = None,
    model_name: Annotated[str | None, Option("--model-name", help="Name of the model, general.name.")] = None,
    metadata: Annotated[
        Path | None,
        Option("--metadata", help='An authorship metadata override file: JSON such as {"general.author": "me"}.'),
    ] = None,
    base: Annotated[
        str | None,
        Option("--base", "--base-model-id", help="Of an adapter, its base model (default: the one that it names)."),
    ] = None,
    merge: MergeOption = None,
    target: TargetOption = None,
    component: ComponentOption = None,
    mmproj: Annotated[
        bool, Option("--mmproj", help="Of a multimodal model, convert what it sees or hears with instead.")
    ] = False,
    allow_pickle: AllowPickleOption = False,
    vocab_only: Annotated[bool, Option("--vocab-only", help="Extract only the vocab.")] = False,
    split_max_size: SplitMaxSizeOption = None,
    split_max_tensors: SplitMaxTensorsOption = None,
    list_architectures: Annotated[
        bool, Option("--list-architectures", help="Print the supported models and stop.")
    ] = False,
    pre_tokenizer: PreTokenizerOption = None,
    no_mtp: NoMtpOption = False,
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert a model to one GGUF file, streaming its tensors, or a LoRA adapter."""
    output = Output(as_json=as_json, quiet=quiet)
    if list_architectures:
        _show_architectures(output)
        return
    if model is None:
        raise UserError("MODEL is missing", why="A Hub id or a folder.", hint="write: hubquant convert MODEL")
    chosen = converted_type(type, model) if type and type.lower() != AUTO else None
    from hubquant.commands.flags import model as reference
    from hubquant.commands.flags import split_settings

    split = split_settings(split_max_size, split_max_tensors)
    from hubquant.commands.files import Converting, Placing  # after the type is right: it imports torch
    from hubquant.commands.files import convert as plan_convert
    from hubquant.convert.rules.authorship import read_authorship
    from hubquant.gguf_file.metadata import string
    from hubquant.recipe.schema import Convert

    own = read_authorship(metadata) if metadata else {}
    if model_name:
        own = {**own, "general.name": string(model_name)}
    how = Convert(pre_tokenizer=pre_tokenizer, no_mtp=no_mtp)
    wanted = Converting(chosen, how, own, vocab_only, base, mmproj)
    placing = Placing(out or Path(), split=split)
    finish(
        lambda store, progress: plan_convert(
            reference(model, component, pickles=allow_pickle, merge=merge, target=target),
            wanted,
            placing,
            store,
            progress,
        ),
        store,
        dry_run,
        output,
        lambda made: made[0].as_dict(),
        lambda made: f"{made[0].path}  {made[0].type}  {size(made[0].size)}",
    )


def _show_architectures(output: Output) -> None:
    from hubquant.convert.architectures import ARCHITECTURES

    found: dict[str, list[str]] = {}
    for each in ARCHITECTURES:
        found.setdefault(each.name, []).extend(each.classes)
    width = max(map(len, found))
    output.data(
        [{"architecture": name, "classes": classes} for name, classes in sorted(found.items())],
        "\n".join(f"{name:<{width}}  {', '.join(classes)}" for name, classes in sorted(found.items())),
    )

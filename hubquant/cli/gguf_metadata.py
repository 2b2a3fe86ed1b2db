"""``hubquant gguf set``, ``unset`` and ``new-metadata``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.printable import plain
from hubquant.units import size

if TYPE_CHECKING:
    from hubquant.commands.gguf_metadata import Edit

EditedArgument = Annotated[Path, Argument(metavar="FILE.gguf", help="A GGUF file, or the first of its shards.")]
EditOut = Annotated[Path | None, Option("--out", "-o", help="The GGUF file to write.")]
InPlaceOption = Annotated[
    bool, Option("--in-place", help="Replace the file; it is written anew beside it first, so there must be room.")
]
EditDryRun = Annotated[bool, Option("--dry-run", help="Show what would change and stop.")]


def set_value(
    file: EditedArgument,
    key: Annotated[str, Argument(metavar="KEY", help="Metadata key to set.")],
    value: Annotated[str, Argument(metavar="VALUE", help="Metadata value to set; an array as JSON.")],
    out: EditOut = None,
    in_place: InPlaceOption = False,
    type: Annotated[
        str | None,
        Option("--type", help="uint32, float32, bool, string, [string] and so on (default: the type it has)."),
    ] = None,
    dry_run: EditDryRun = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Set a value in GGUF file metadata. A negative number comes after --."""
    from hubquant.commands.gguf_metadata import set_value as plan_set

    output = Output(as_json=as_json, quiet=quiet)
    _finish(plan_set(file, key, value, type, out, in_place=in_place), dry_run, output)


def unset(
    file: EditedArgument,
    keys: Annotated[list[str], Argument(metavar="KEY", help="Metadata keys to take away.")],
    out: EditOut = None,
    in_place: InPlaceOption = False,
    dry_run: EditDryRun = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take keys out of GGUF file metadata."""
    from hubquant.commands.gguf_metadata import unset as plan_unset

    _finish(plan_unset(file, keys, out, in_place=in_place), dry_run, Output(as_json=as_json, quiet=quiet))


def new_metadata(
    file: EditedArgument,
    out: EditOut = None,
    in_place: InPlaceOption = False,
    general_name: Annotated[str | None, Option("--general-name", help="The model's general.name.")] = None,
    general_description: Annotated[
        str | None, Option("--general-description", help="The model's general.description.")
    ] = None,
    chat_template: Annotated[
        str | None, Option("--chat-template", help="Chat template string (or JSON string containing templates).")
    ] = None,
    chat_template_config: Annotated[
        Path | None,
        Option("--chat-template-config", help="Config file containing chat templates: tokenizer_config.json."),
    ] = None,
    chat_template_file: Annotated[
        Path | None, Option("--chat-template-file", help="Jinja file containing chat template.")
    ] = None,
    pre_tokenizer: Annotated[str | None, Option("--pre-tokenizer", help="The model's tokenizer.ggml.pre.")] = None,
    special_token: Annotated[
        list[str] | None,
        Option("--special-token", help="Special token by value: eos='<|im_end|>'. Repeatable."),
    ] = None,
    special_token_by_id: Annotated[
        list[str] | None, Option("--special-token-by-id", help="Special token by id: eos=2. Repeatable.")
    ] = None,
    values: Annotated[
        list[str] | None, Option("--set", help="KEY=VALUE, as hubquant gguf set takes it. Repeatable.")
    ] = None,
    remove_metadata: Annotated[
        list[str] | None, Option("--remove-metadata", help="Remove metadata by key name. Repeatable.")
    ] = None,
    dry_run: EditDryRun = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a copy of a GGUF file with new metadata, as gguf_new_metadata.py does."""
    from hubquant.commands.gguf_metadata import NewMetadata, parse_special
    from hubquant.commands.gguf_metadata import new_metadata as plan_new

    new = NewMetadata(
        general_name,
        general_description,
        chat_template,
        chat_template_config,
        chat_template_file,
        pre_tokenizer,
        parse_special(special_token or [], "--special-token"),
        parse_special(special_token_by_id or [], "--special-token-by-id"),
        values or [],
        remove_metadata or [],
    )
    _finish(plan_new(file, new, out, in_place=in_place), dry_run, Output(as_json=as_json, quiet=quiet))


def _finish(edit: Edit, dry_run: bool, output: Output) -> None:
    from hubquant.commands.gguf_files import carry_out

    if not dry_run:
        carry_out(edit.writing, output.progress())
    [(path, made)] = edit.writing.files.items()
    lines = [f"{each.key}: {_shown(each.before)} → {_shown(each.after)}" for each in edit.changes]
    output.data(edit.as_dict(), lambda: "\n".join(map(plain, [*lines, f"{path}  {size(made.size)}"])))


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value) if isinstance(value, str) else str(value)

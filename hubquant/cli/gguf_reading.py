"""``hubquant gguf hash``, ``dump`` and ``copy-types``, which write nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.printable import plain

ReadArgument = Annotated[Path, Argument(metavar="FILE.gguf", help="A GGUF file, or the first of its shards.")]


def hash_model(
    file: ReadArgument,
    xxh64: Annotated[bool, Option("--xxh64", help="Use xxh64 hash (the default).")] = False,
    sha1: Annotated[bool, Option("--sha1", help="Use sha1 hash.")] = False,
    sha256: Annotated[bool, Option("--sha256", help="Use sha256 hash.")] = False,
    every: Annotated[bool, Option("--all", help="Use all hash.")] = False,
    uuid: Annotated[bool, Option("--uuid", help="Generate UUIDv5 ID.")] = False,
    no_layer: Annotated[bool, Option("--no-layer", help="Exclude per layer hash.")] = False,
    check: Annotated[
        Path | None, Option("--check", "-c", help="Verify against a manifest: what this command printed before.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Hash the tensors of a model, each and all together, as llama.cpp's gguf-hash does. Exit code 1: --check found
    others."""
    from hubquant.commands.gguf_hash import hash_model as hash_tensors
    from hubquant.commands.gguf_hash import kinds, verify

    output = Output(as_json=as_json, quiet=quiet)
    asked = {"xxh64": xxh64 or every, "sha1": sha1 or every, "sha256": sha256 or every, "uuid": uuid}
    chosen = kinds([kind for kind, wanted in asked.items() if wanted], check)
    found = hash_tensors(file, chosen, output.progress(), tensors=not no_layer)
    checked = verify(found, check) if check else None
    output.data(
        found.as_list() if checked is None else checked.as_dict(),
        lambda: "\n".join(map(plain, found.lines() if checked is None else checked.lines())),
    )
    if checked is not None and not checked.ok:
        raise Exit(1)


def dump(
    file: ReadArgument,
    markdown: Annotated[bool, Option("--markdown", help="Produce markdown output.")] = False,
    no_tensors: Annotated[bool, Option("--no-tensors", help="Don't dump tensor metadata.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Dump GGUF file metadata, as gguf_dump.py does; with --json every value of every array."""
    from hubquant.gguf_file.dump import Dump
    from hubquant.gguf_file.stored import read_model

    found = Dump(str(file), read_model(file))
    output = Output(as_json=as_json, quiet=quiet)
    shown = found.as_markdown if markdown else found.as_text
    output.data(found.as_dict(tensors=not no_tensors) if as_json else None, lambda: shown(tensors=not no_tensors))


def copy_types(
    like: Annotated[Path, Argument(metavar="A.gguf", help="A GGUF file whose types are copied.")],
    model: Annotated[
        str, Argument(metavar="B", help="The model to be quantized like it: a Hub id, a folder or a file.")
    ],
    recipe: Annotated[
        bool, Option("--recipe", help="Print rules of a recipe, not lines for --tensor-type-file.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Print the type of every tensor as rules, so that another model is quantized alike."""
    from hubquant.commands.gguf_types import copy_types as copy

    output = Output(as_json=as_json, quiet=quiet)
    progress = output.progress()
    found = copy(like, model, progress)
    for note in found.notes:
        progress.note(note)
    if not recipe:
        progress.note(f"quantize with --type {found.base}, and this in a file after --tensor-type-file")
    output.data(found.recipe()["quantize"], lambda: found.as_yaml() if recipe else "\n".join(found.lines()))

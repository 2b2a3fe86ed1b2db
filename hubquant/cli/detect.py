"""``hubquant detect``."""

from __future__ import annotations

from typing import Annotated

import typer

from hubquant.cli.output import JsonOption, Output, QuietOption


def detect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A Hub id, perhaps with @revision, a folder, or a safetensors or GGUF file."
        ),
    ],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tell whether a model is quantized already, by which library, to what, and how that is known."""
    from hubquant.commands.detect import detect as look
    from hubquant.commands.flags import model as reference

    output = Output(as_json=as_json, quiet=quiet)
    found = look(reference(model), output.progress())
    output.data(found.as_dict(), lambda: str(found))

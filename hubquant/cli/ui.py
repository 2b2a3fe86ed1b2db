"""``hubquant ui``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubquant.cli.output import JsonOption, Output, QuietOption


def ui(
    host: Annotated[
        str,
        typer.Option("--host", help="The address to listen at; at another one than this machine's a key is needed."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 for any free one.")] = 7860,
    state: Annotated[
        Path | None, typer.Option("--state", help="Where jobs and their files are kept (default: in $HUBQUANT_HOME).")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Open the app: choose a model, make its files and publish them in a browser. Ctrl-C ends it; jobs go on."""
    from hubquant.ui.server import serve

    output = Output(as_json=as_json, quiet=quiet)
    with output.progress().doing("opening the app"):
        served, dispatcher = serve(host, port, state)
    output.data({"url": served.url}, f"hubquant is at {served.url}")
    with dispatcher.running():
        served.run()

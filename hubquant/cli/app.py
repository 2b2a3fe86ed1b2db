"""Assembles the commands and turns every known error into one message and an exit code."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import sys
from contextlib import ExitStack
from functools import cache
from typing import Annotated, Any

import typer

from hubquant.cli import (
    backends,
    batch,
    compare,
    convert,
    dataset,
    detect,
    environment,
    evaluate,
    gguf,
    imatrix,
    inspect,
    publish,
    quantize,
    refine,
    run,
    store,
    tune,
    ui,
)
from hubquant.cli.line import command, farewell, has_flag, option_value
from hubquant.cli.log import log_file
from hubquant.cli.output import Output, say
from hubquant.cli.streams import ReaderGone, guarded
from hubquant.cli.usage import Command, Group
from hubquant.environ import quieten_libraries
from hubquant.errors import HubquantError, UserError
from hubquant.signals import Stopped, stopping
from hubquant.version import __version__

app = typer.Typer(
    name="hubquant",
    cls=Group,
    help="One line takes a Hugging Face model to a published, measured GGUF repository.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run", cls=Command)(run.run)
app.command("plan", cls=Command)(run.plan)
app.command("compare", cls=Command)(compare.compare)
app.command("batch", cls=Command)(batch.batch)
app.command("watch", cls=Command)(batch.watch)
app.command("convert", cls=Command)(convert.convert)
app.command("quantize", cls=Command)(quantize.quantize)
app.add_typer(imatrix.app, name="imatrix")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(gguf.app, name="gguf")
app.add_typer(store.app, name="store")
app.add_typer(dataset.app, name="dataset")
app.command("refine", cls=Command)(refine.refine)
app.command("inspect", cls=Command)(inspect.inspect)
app.command("detect", cls=Command)(detect.detect)
app.command("publish", cls=Command)(publish.publish)
app.command("tune", cls=Command)(tune.tune)
app.command("ui", cls=Command)(ui.ui)
app.command("backends", cls=Command)(backends.backends)
app.command("env", cls=Command)(environment.env)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hubquant {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


@cache
def _commands() -> Any:
    """Typer itself would make them anew for every line, which takes longer than most lines."""
    return typer.main.get_command(app)


def run_app(arguments: list[str] | None = None) -> int:
    """The exit code of the command that ``arguments`` are (default: the process's own)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    output = Output(
        as_json=has_flag(arguments, "--json"),
        quiet=has_flag(arguments, "--quiet", "-q"),
        command=command(arguments),
    )
    verbose = has_flag(arguments, "--verbose")
    quieten_libraries(verbose=verbose)
    with ExitStack() as stack:
        try:
            log = stack.enter_context(log_file(option_value(arguments, "--log-file")))
        except HubquantError as error:
            output.error(error)
            return error.exit_code
        if log is not None:
            log(f"hubquant {__version__}: {shlex.join(arguments)}")
        stack.enter_context(guarded(as_json=output.as_json, log=log, stamps=verbose and not output.as_json))
        stack.enter_context(output.warnings(logging.INFO if verbose else logging.WARNING))
        try:
            with stopping(farewell(arguments)):
                code = int(_commands()(arguments, prog_name="hubquant", standalone_mode=False) or 0)
                sys.stdout.flush()
            return code
        except Stopped as stop:
            say(farewell(arguments))
            return stop.exit_code
        except ReaderGone as gone:
            return gone.exit_code
        except HubquantError as error:
            output.error(error)
            return error.exit_code
        except Exception as error:
            if os.environ.get("HUBQUANT_DEBUG"):
                raise
            explained = _explained(error)
            output.error(explained)
            return explained.exit_code


def _explained(error: Exception) -> HubquantError:
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UserError(f"{error.filename} is no path", why="the name is too long", hint="check what was typed")
    return HubquantError(
        "hubquant failed in a way it does not know",
        why=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
        hint="run it again with HUBQUANT_DEBUG=1 and report what it prints",
    )

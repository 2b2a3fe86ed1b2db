"""Assembles the commands and turns every known error into one message and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import click
import typer

from hubquant import __version__
from hubquant.cli import convert, evaluate, imatrix, inspect, publish, quantize, run
from hubquant.cli.output import Output
from hubquant.errors import HubquantError

app = typer.Typer(
    name="hubquant",
    help="One line takes a Hugging Face model to a published, measured GGUF repository.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run.run)
app.command("plan")(run.plan)
app.command("convert")(convert.convert)
app.command("quantize")(quantize.quantize)
app.add_typer(imatrix.app, name="imatrix")
app.add_typer(evaluate.app, name="evaluate")
app.command("inspect")(inspect.inspect)
app.command("publish")(publish.publish)


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


def run_app(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    output = Output(as_json="--json" in arguments)
    _quieten_libraries()
    try:
        return app(arguments, standalone_mode=False) or 0
    except HubquantError as error:
        output.error(error)
        return error.exit_code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("\nInterrupted. Run the same line again: it continues where it stopped.\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("HUBQUANT_DEBUG"):
            raise
        output.error(
            HubquantError(
                "hubquant failed in a way it does not know",
                why=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
                hint="run it again with HUBQUANT_DEBUG=1 and report what it prints",
            )
        )
        return 1


def _quieten_libraries() -> None:
    """Our output is the only output; a user who wants the libraries' own says so in the environment."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

"""The command line: one thin module per command group, no logic."""

from __future__ import annotations


def main() -> None:
    """Entry point of ``hubquant``; exit code 2 for the user's mistakes, 1 for failures, 130 when interrupted."""
    import gc

    from hubquant.cli.app import run_app

    code = run_app()
    gc.freeze()  # or else the interpreter looks through all that the libraries made before it ends, for a second
    raise SystemExit(code)

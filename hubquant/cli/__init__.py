"""The command line: one thin module per command group, no logic."""

from __future__ import annotations


def main() -> None:
    """Entry point of ``hubquant``; exit code 2 for the user's mistakes, 1 for failures, 130 when interrupted."""
    from hubquant.cli.app import run_app

    raise SystemExit(run_app())

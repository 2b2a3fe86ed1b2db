"""The command line: one thin module per command group, no logic."""

from __future__ import annotations


def main() -> None:
    """Entry point of ``hubquant``. Exit codes: 2 for the user's mistakes, 1 for failures, 130 and 143 when stopped."""
    import gc
    import sys

    from hubquant.cli.line import farewell
    from hubquant.cli.streams import fill_closed_descriptors
    from hubquant.signals import Stopped, die_quietly, end_at_once, stopping

    fill_closed_descriptors()
    die_quietly()
    try:
        with stopping(farewell(sys.argv[1:])):  # while the commands are read
            from hubquant.cli.app import run_app

            code = run_app()
    except Stopped as stop:
        print(farewell(sys.argv[1:]), file=sys.stderr)
        code = stop.exit_code
    if code > 128:
        end_at_once(code)
    gc.freeze()  # or else the interpreter looks through all that the libraries made before it ends, for a second
    raise SystemExit(code)

"""What the command line says of itself before anything is parsed, for messages that cannot wait for that."""

from __future__ import annotations

import json
from collections.abc import Sequence

GROUPS = ("imatrix", "evaluate", "gguf", "store", "dataset")
GOING_ON = (
    "run",
    "batch",
    "watch",
    "convert",
    "quantize",
    "publish",
    "imatrix collect",
    "evaluate baseline",
    "evaluate run",
    "dataset build",
    "refine",
)
"""Commands that keep what is finished, and find it again."""


def has_flag(arguments: Sequence[str], *names: str) -> bool:
    """Whether one of ``names`` stands there; no option takes another one's name as its value."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return any(argument in names for argument in arguments[:end])


def option_value(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option, before anything is parsed."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for position, argument in enumerate(arguments[:end]):
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
        if argument == name and position + 1 < end:
            return arguments[position + 1]
    return None


def command(arguments: Sequence[str]) -> str:
    """ "run" or "imatrix collect"; whatever stands in their place if it is none."""
    words = [argument for argument in arguments if not argument.startswith("-")]
    return " ".join(words[: 2 if words[:1] and words[0] in GROUPS else 1])


def farewell(arguments: Sequence[str]) -> str:
    """What to do after the work was interrupted."""
    if command(arguments) == "ui":
        hint = "jobs that run go on; the same line opens the app again"
    elif command(arguments) not in GOING_ON or has_flag(arguments, "--dry-run", "--count-only"):
        hint = "run the same line again: nothing was written"
    elif has_flag(arguments, "--fresh"):
        hint = "run the same line again without --fresh: it continues where it stopped"
    else:
        hint = "run the same line again: it continues where it stopped"
    if has_flag(arguments, "--json"):
        return json.dumps({"event": "interrupted", "hint": hint})
    return f"\nInterrupted. {hint[0].upper()}{hint[1:]}."

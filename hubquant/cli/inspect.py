"""``hubquant inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubquant.cli.output import JsonOption, Output
from hubquant.units import size

LONGEST_VALUE = 100  # characters of one metadata value on a terminal


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="A GGUF file, or the first of its shards.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor, not only the types.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a GGUF file's metadata, provenance and tensors."""
    from hubquant.gguf_file import GGUFFile
    from hubquant.gguf_file.describe import describe

    description = describe(GGUFFile.open(file))

    def text() -> str:
        lines = [f"{key:<44} {_short(value)}" for key, value in description.metadata.items()]
        lines += [
            "",
            f"{description.n_parameters / 1e6:.2f} M weights, {size(description.nbytes)}, {description.bpw:.4f} bpw",
            "",
        ]
        if tensors:
            lines += [
                f"{t.name:<32} {t.type:<8} {' × '.join(map(str, t.shape)):>16} {size(t.nbytes):>12}"
                for t in description.tensors
            ]
        else:
            lines += [f"{name:<8} {count:>5} tensors  {size(nbytes):>12}" for name, count, nbytes in description.types]
        return "\n".join(lines)

    Output(as_json=as_json).data(description.as_dict(), text)


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, str) and "\n" in value else str(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"

"""``hubquant inspect``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.printable import plain
from hubquant.units import counted, size

SHORTEST = 16  # characters of a metadata value that are shown in any case


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="A GGUF file, or the first of its shards.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor, not only the types.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show a GGUF file's metadata, provenance and tensors."""
    from hubquant.gguf_file import GGUFFile
    from hubquant.gguf_file.describe import describe

    description = describe(GGUFFile.open(file))

    def text() -> str:
        columns = shutil.get_terminal_size().columns
        keys = min(max(map(len, description.metadata), default=0), columns // 2)
        lines = [_row(plain(key), plain(str(value)), keys, columns) for key, value in description.metadata.items()]
        lines += [
            "",
            f"{description.n_parameters / 1e6:.2f} M weights, {size(description.nbytes)}, {description.bpw:.4f} bpw",
            "",
        ]
        if tensors:
            lines += [
                f"{plain(t.name):<32} {t.type:<8} {' × '.join(map(str, t.shape)):>16} {size(t.nbytes):>12}"
                for t in description.tensors
            ]
        else:
            lines += [
                f"{name:<8} {counted(count, 'tensor ', 'tensors'):>13}  {size(nbytes):>12}"
                for name, count, nbytes in description.types
            ]
        return "\n".join(lines)

    Output(as_json=as_json, quiet=quiet).data(description.as_dict(), text)


def _row(key: str, value: str, keys: int, columns: int) -> str:
    """Cut to the width of the terminal; a long key stays whole and leaves less for the value."""
    begin = f"{key:<{keys}}  "
    room = max(columns - len(begin), SHORTEST)
    return begin + (value if len(value) <= room else value[: room - 1] + "…")

"""``hubquant backends``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.devices import Device
from hubquant.recipe.backends import GGUF

WHEN = {"load": "while loading", "after": "after loading"}


def backends(
    device: Annotated[Device, typer.Option("--device", help="Where models are to run: auto, cpu, cuda, mps.")] = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what quantizes models here: packages, types, and which offload each of them stands."""
    from hubquant.commands.backends import backends as every_backend

    found = every_backend(device)
    Output(as_json=as_json, quiet=quiet).data(found, lambda: "\n".join(_lines(found)))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    packages = (f"{name} {version or 'not installed'}" for name, version in found["packages"].items())
    yield f"on {found['device']}, {', '.join(packages)}"
    if found["device"] != "cpu":
        yield "what works is what the libraries say: nobody tried it on such a device"
    for each in found["backends"]:
        yield ""
        yield f"{each['backend']}: {each['package']} {each['version'] or 'not installed'}"
        if each["problem"]:
            yield f"  {each['problem']}: {each['command']}"
        yield f"  {_types(each)}"
        for row in each["rows"]:
            yield f"  {_row(row, every=len(row['types']) == len(each['types']))}"


def _types(backend: Mapping[str, Any]) -> str:
    from hubquant.commands.backends import by_bits

    if backend["backend"] == GGUF:
        return "types: those of hubquant quantize"
    parts = (f"{', '.join(names)} ({bits:g} bits)" for bits, names in by_bits(backend["types"]).items())
    return f"types: {', '.join(parts)}"


def _row(row: Mapping[str, Any], *, every: bool) -> str:
    from hubquant.commands.backends import works

    moments: dict[str, list[str]] = {}
    for each in row["where"]:
        moments.setdefault(each["framework"], []).append(WHEN[each["moment"]])
    together: dict[str, list[str]] = {}
    for framework, some in moments.items():
        together.setdefault(" and ".join(some), []).append(framework)
    where = ", ".join(f"{' and '.join(frameworks)} {when}" for when, frameworks in together.items())
    begin = f"{where}: {'every type' if every else ', '.join(row['types'])}:"
    offloads = row["offloads"]
    if not works(row):
        return f"{begin} refused, {offloads['none']['why']}"
    fine, slow = ([name for name, each in offloads.items() if each["state"] == state] for state in ("works", "slow"))
    said = (f"offload {', '.join(fine)}" if fine else "", f"slow with offload {', '.join(slow)}" if slow else "")
    return f"{begin} {'; '.join(filter(None, said))}"

"""``hubquant env``."""

from __future__ import annotations

from typing import Any

from hubquant.cli.job import StoreOption
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.printable import plain
from hubquant.units import size


def env(store: StoreOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Show versions, processor, devices, memory, llama.cpp and the store, for reports of bugs."""
    from hubquant.commands.environment import environment
    from hubquant.engine.store import Store

    found = environment(Store(store))
    Output(as_json=as_json, quiet=quiet).data(found, lambda: _text(found))


def _text(found: dict[str, Any]) -> str:
    store, devices = found["store"], found["devices"]
    kept = f"{size(store['size'])} in {store['artifacts']} artifacts, {size(store['free'])} free"
    rows = {
        "hubquant": found["hubquant"],
        "python": f"{found['python']} ({found['prefix']})",
        "system": found["system"],
        **{package: version or "not installed" for package, version in found["packages"].items()},
        "llama.cpp": found["llama_cpp_build"] or "not installed",
        "processor": f"{found['processor']}, {found['cores']} cores, {' '.join(found['features'])}",
        "memory": size(found["memory"]),
        "devices": ", ".join(map(_device, devices)) or "cpu alone",
        "store": f"{store['path']}: {kept}",
        "set": ", ".join(found["set"]) or "nothing",
    }
    return "\n".join(f"{name:<16}  {plain(str(value))}" for name, value in rows.items())


def _device(device: dict[str, Any]) -> str:
    return device["name"] if device["memory"] is None else f"{device['name']} with {size(device['memory'])}"

"""A model without some of its layers, as llama-quantize's ``--prune-layers`` leaves them out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hubquant.convert.rules.rule import XIELU
from hubquant.convert.tables import Bundle
from hubquant.errors import GGUFError
from hubquant.gguf_file.metadata import KV, Metadata
from hubquant.sources.component import Component

_BLOCK = re.compile(r"((?:enc\.)?blk)\.(\d+)\.")
_BY_PERIOD = ("full_attention_interval", "sliding_window_pattern", "interleave_moe_layer_step", "shared_kv_layers")


def pruned(component: Component, layers: Sequence[int]) -> Component:
    """``component`` without these ``layers``, counted from 0; those behind them take their numbers. Raises
    ``GGUFError`` for a layer that is not there, and where none would be left."""
    if not layers:
        return component
    conversion, n_layer = component.conversion, component.conversion.hparams["n_layer"]
    n_ahead = conversion.hparams.get("n_layer_nextn", 0)
    n_layer -= n_ahead  # those behind the last stay
    if absent := [layer for layer in layers if not 0 <= layer < n_layer]:
        raise GGUFError(
            f"there is no layer {absent[0]} to prune",
            why=f"the model has {n_layer}, and the first is 0",
            hint=f"choose among 0 to {n_layer - 1}",
        )
    if len(left := [layer for layer in range(n_layer) if layer not in layers]) == 0:
        raise GGUFError("no layer would be left", hint="prune fewer")
    numbers = {layer: number for number, layer in enumerate(left)}
    names = dict(_renamed(conversion.shapes, numbers, n_layer))
    metadata = pruned_metadata(conversion.metadata, conversion.architecture, left, n_layer, n_ahead)
    notes = [
        f"layers are pruned, and {key} tells layers apart by their numbers: the model may not be what it was"
        for key in metadata
        if key.endswith(_BY_PERIOD) and not isinstance(metadata[key].value, tuple)
    ]
    return replace(
        component,
        conversion=replace(
            conversion,
            metadata=metadata,
            numbers={
                key: replace(each, names=tuple(each.names[layer] for layer in left))
                for key, each in conversion.numbers.items()
            },
            bundles=tuple(bundle for each in conversion.bundles if (bundle := _pruned(each, names)) is not None),
            notes=(*conversion.notes, *notes),
        ),
        origins={new: old for old, new in names.items() if new != old},
        whole=component,
    )


def pruned_metadata(
    metadata: Metadata, architecture: str, left: Sequence[int], n_layer: int, n_ahead: int = 0
) -> Metadata:
    """With the number of layers that are ``left`` of ``n_layer``, and of lists by layer only their values, which
    llama-quantize keeps; ``n_ahead`` layers behind the last stay."""
    found, n_all = dict(metadata), n_layer + n_ahead
    for key, kv in metadata.items():
        if not key.startswith((f"{architecture}.", XIELU)):
            continue
        if isinstance(kv.value, tuple) and len(kv.value) in (n_layer, n_all):
            found[key] = replace(kv, value=(*(kv.value[layer] for layer in left), *kv.value[n_layer:]))
        elif key == f"{architecture}.block_count":
            found[key] = KV(len(left) + n_ahead, kv.type)
        elif key == f"{architecture}.leading_dense_block_count" and isinstance(kv.value, int):
            found[key] = KV(sum(layer < kv.value for layer in left), kv.type)
    return found


def _renamed(names: Iterable[str], numbers: Mapping[int, int], n_layer: int) -> Iterable[tuple[str, str]]:
    for name in names:
        match = _BLOCK.match(name)
        if match is None:
            yield name, name
            continue
        layer = int(match[2])
        number = numbers.get(layer) if layer < n_layer else layer - n_layer + len(numbers)
        if number is not None:
            yield name, f"{match[1]}.{number}.{name[match.end() :]}"


def _pruned(bundle: Bundle, names: Mapping[str, str]) -> Bundle | None:
    """None where none of its tensors is left."""
    targets = {names[name]: shape for name, shape in bundle.targets.items() if name in names}
    if targets and len(targets) < len(bundle.targets):
        raise GGUFError(
            "layers that share weights cannot be pruned apart",
            why=f"{next(iter(bundle.targets))} is made together with others",
            hint="prune all of them, or none",
        )
    return replace(bundle, targets=targets) if targets else None

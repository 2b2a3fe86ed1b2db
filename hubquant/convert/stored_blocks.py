"""Tensors that a checkpoint has in codes which the blocks of a GGUF type hold without rounding: their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.headers import TensorInfo
from hubquant.convert.head_order import ALONG_AN_AXIS, MOVES_ROWS
from hubquant.convert.operations import Operation, Stack
from hubquant.convert.plain import plain_checkpoint
from hubquant.convert.tables import Bundle

if TYPE_CHECKING:
    import torch

    from hubquant.convert.conversion import Conversion


def exact_types(bundles: Iterable[Bundle], tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """The types of GGUF whose blocks may hold what the checkpoint has in codes, by the tensors of the file; ``tensors``
    are those of a plain checkpoint."""
    found: dict[str, str] = {}
    for bundle in bundles:
        infos = [tensors.get(source) for source in bundle.sources]
        types = {info.coding.type if info and info.coding else None for info in infos}
        if len(types) == 1 and (type := types.pop()) and all(map(_moves_rows, bundle.operations)):
            found |= dict.fromkeys(bundle.targets, type)
    return found


def stored_blocks(conversion: Conversion, checkpoint: Checkpoint) -> Callable[[str, str], torch.Tensor | None]:
    """What gives a tensor of the file in a type, uint8 [rows, row_bytes], by both names; None where it has to be made
    from floats."""
    if not conversion.exact:
        return lambda _name, _type: None
    plain = plain_checkpoint(checkpoint)
    bundle_of = {target: bundle for bundle in conversion.bundles for target in bundle.targets}

    def blocks(name: str, type: str) -> torch.Tensor | None:
        if conversion.exact.get(name) != type:
            return None
        found = _targets(bundle_of[name], plain)
        return None if found is None else found[name].reshape(-1, found[name].shape[-1])

    return blocks


def _targets(bundle: Bundle, checkpoint: Checkpoint) -> dict[str, torch.Tensor] | None:
    sources = []
    for source in bundle.sources:
        rows = checkpoint.read_blocks(source)
        if rows is None:
            return None
        sources.append(rows)
    return bundle.forward(sources)


def _moves_rows(operation: Operation) -> bool:
    """Whether it leaves the numbers of a row [columns] of a matrix together and in their order."""
    return isinstance(operation, (*MOVES_ROWS, Stack)) or (isinstance(operation, ALONG_AN_AXIS) and operation.axis == 0)

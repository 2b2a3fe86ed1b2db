"""Tensors that a checkpoint has in codes which the blocks of a GGUF type hold without rounding: their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.headers import TensorInfo
from hubquant.convert.factored import Factored
from hubquant.convert.head_order import ALONG_AN_AXIS, MOVES_ROWS
from hubquant.convert.operations import Operation, Stack
from hubquant.convert.plain import plain_checkpoint
from hubquant.convert.tables import Bundle

if TYPE_CHECKING:
    import torch

    from hubquant.convert.conversion import Conversion


NVFP4 = "NVFP4"


def exact_types(bundles: Iterable[Bundle], tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """The types of GGUF whose blocks may hold what the checkpoint has in codes, by the tensors of the file; ``tensors``
    are those of a plain checkpoint."""
    found: dict[str, str] = {}
    for bundle in bundles:
        beside = _factored(bundle)
        sources, operations = _whole(bundle)
        infos = [tensors.get(source) for source in sources]
        types = {info.coding.type if info and info.coding else None for info in infos}
        moved = len(types) == 1 and all(map(_moves_rows, operations))
        if moved and (type := types.pop()) and (type == NVFP4) == (beside is not None):
            found |= dict.fromkeys(list(bundle.targets)[: 1 if beside else None], type)
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
    for source in _whole(bundle)[0]:
        rows = checkpoint.read_blocks(source)
        if rows is None:
            return None
        sources.append(rows)
    if beside := _factored(bundle):
        return dict(zip(bundle.targets, beside.made(sources), strict=False))
    return bundle.forward(sources)


def _factored(bundle: Bundle) -> Factored | None:
    return next((operation for operation in bundle.operations if isinstance(operation, Factored)), None)


def _whole(bundle: Bundle) -> tuple[tuple[str, ...], tuple[Operation, ...]]:
    """The sources that are weights, and what is done to them, without factors beside them."""
    beside = _factored(bundle)
    return (bundle.sources[: beside.n], beside.operations) if beside else (bundle.sources, bundle.operations)


def _moves_rows(operation: Operation) -> bool:
    """Whether it leaves the numbers of a row [columns] of a matrix together and in their order."""
    return isinstance(operation, (*MOVES_ROWS, Stack)) or (isinstance(operation, ALONG_AN_AXIS) and operation.axis == 0)

"""The searches of the mode "best" in torch, for tensors on other devices than the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hubquant.quants.formats import TypeFormat
from hubquant.quants.tensor.weights import row_power

_CHUNK = 1 << 23  # weights at a time: with its weights, and the search's temporaries, a few hundred MB
_LIMIT = 3e8  # beyond, no type reaches: half precision ends at 65504

# x [blocks, n], w [blocks, n], whether w is made from importance, fmt -> uint8 [blocks, block_bytes]
Search = Callable[[Tensor, Tensor, bool, TypeFormat], Tensor]


@dataclass(frozen=True)
class TensorSearch:
    """The search of a type, and how it weighs squared errors without and with importance (:mod:`tensor.weights`).

    ``row_power``: with importance it weighs by the mean square of the row too.
    """

    search: Search
    plain: Callable[[Tensor], Tensor]
    weighted: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    row_power: bool = False

    def blocks(self, x: Tensor, importance: Tensor | None, fmt: TypeFormat) -> Tensor:
        """float32 ``x`` [rows, n] -> uint8 [rows, row_bytes]; ``importance`` [n]."""
        rows, n = x.shape
        per_row = n // fmt.block_size
        blocks = x.view(-1, fmt.block_size)
        if importance is None:
            w = self.plain(blocks)
        else:
            power = row_power(x).repeat_interleave(per_row) if self.row_power else None
            w = self.weighted(blocks, importance.view(per_row, -1).repeat(rows, 1), power)
            w = torch.where((w > 0).any(-1, keepdim=True), w, 1)
        return self.search(blocks, w, importance is not None, fmt).view(rows, -1)


def quantize_tensor(x: Tensor, fmt: TypeFormat, search: TensorSearch, importance: Tensor | None) -> Tensor:
    """float ``x`` [rows, n] -> uint8 [rows, row_bytes] on its device; ``importance`` [n].

    ValueError for NaN or infinity in ``x``, naming the row.
    """
    rows, n = x.shape
    importance = None if importance is None else importance.to(x.device, torch.float32)
    step = max(1, _CHUNK // n)
    out = torch.empty(rows, fmt.row_bytes(n), dtype=torch.uint8, device=x.device)
    with torch.no_grad():
        for start in range(0, rows, step):
            out[start : start + step] = search.blocks(checked(x[start : start + step], start), importance, fmt)
    return out


def checked(x: Tensor, start: int) -> Tensor:
    """Rows from number ``start`` on, float [rows, n], in float32 and no larger than a type can be asked for.

    ValueError for NaN or infinity, naming the row.
    """
    values = x.float()
    finite = torch.isfinite(values).all(dim=1)
    if not finite.all():
        raise ValueError(f"row {start + int((~finite).nonzero()[0])} holds NaN or infinity")
    return values.clamp(-_LIMIT, _LIMIT)

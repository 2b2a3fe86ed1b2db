"""The searches of the mode "best" in torch, for tensors on other devices than the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from hubquant.quants.formats import TypeFormat
from hubquant.quants.tensor.searches import SEARCHES
from hubquant.quants.tensor.weights import error_weights, row_power

_CHUNK = 1 << 23  # weights at a time: with its weights, and the search's temporaries, a few hundred MB
_LIMIT = 3e8  # beyond, no type reaches: half precision ends at 65504


def quantize_tensor(x: Tensor, fmt: TypeFormat, importance: Tensor | None) -> Tensor:
    """float ``x`` [rows, n] -> uint8 [rows, row_bytes] on its device; ``importance`` [n].

    ValueError for NaN or infinity in ``x``, naming the row.
    """
    rows, n = x.shape
    importance = None if importance is None else importance.to(x.device, torch.float32)
    step = max(1, _CHUNK // n)
    out = torch.empty(rows, fmt.row_bytes(n), dtype=torch.uint8, device=x.device)
    with torch.no_grad():
        for start in range(0, rows, step):
            values = x[start : start + step].float()
            finite = torch.isfinite(values).all(dim=1)
            if not finite.all():
                raise ValueError(f"row {start + int((~finite).nonzero()[0])} holds NaN or infinity")
            out[start : start + step] = _quantize(values.clamp(-_LIMIT, _LIMIT), fmt, importance)
    return out


def _quantize(x: Tensor, fmt: TypeFormat, importance: Tensor | None) -> Tensor:
    rows, n = x.shape
    per_row = n // fmt.block_size
    blocks = x.view(-1, fmt.block_size)
    power = row_power(x, fmt.name)
    given = None if importance is None else importance.view(per_row, -1).repeat(rows, 1)
    w = error_weights(blocks, fmt.name, given, None if power is None else power.repeat_interleave(per_row))
    return SEARCHES[fmt.name](blocks, w, importance is not None, fmt).view(rows, -1)

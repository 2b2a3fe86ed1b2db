"""How much a moment is damped: what would be lost on inputs that it does not know."""

from __future__ import annotations

import torch
from torch import Tensor

from hubquant.devices import torch_threads
from hubquant.quants.feedback.factor import inverse_factor
from hubquant.quants.formats import lookup

DAMPINGS = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Shares of the mean diagonal."""
_COARSE = 0.01
"""The least for types of fewer than three bits, whose errors are not as the theory has them: codes end too early."""
_COLUMNS = 256  # that are looked at: which damping is best hardly depends on how many


def damping_for(type: str, chosen: float) -> float:
    """What is right for a type where so much was ``chosen``."""
    fmt = lookup(type)
    return max(chosen, _COARSE) if 8 * fmt.block_bytes < 3 * fmt.block_size else chosen


def chosen_damping(seen: Tensor, held_out: Tensor) -> float:
    """The one of ``DAMPINGS`` that is best for weights that are rounded by the moment ``seen`` and used with inputs of
    the moment ``held_out``, both float [n, n].

    Errors e of the same size in each column become E = e P once later columns make up for them, P the factor U of the
    damped moment with rows divided by their diagonal: so tr(P H Pᵀ) of what was held out is least for the best damping,
    whatever the weights and their type.
    """
    columns = (torch.arange(min(len(seen), _COLUMNS)) * len(seen) // min(len(seen), _COLUMNS)).to(seen.device)
    moment, other = (each[columns][:, columns].cpu().double() for each in (seen, held_out))
    mean = moment.diagonal().mean()
    losses = []
    with torch_threads(1):
        for damping in DAMPINGS:
            upper = inverse_factor(moment + damping * mean * torch.eye(len(moment), dtype=torch.float64))
            if upper is None:
                losses.append(float("inf"))
                continue
            passed_on = upper / upper.diagonal().unsqueeze(1)
            losses.append(float(((passed_on @ other) * passed_on).sum()))
    return DAMPINGS[losses.index(min(losses))]

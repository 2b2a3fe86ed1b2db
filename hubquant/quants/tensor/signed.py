"""The search of Q3_K and Q6_K: x ≈ d·s·code, whole s of either sign per sub-block; as :mod:`cpu.best.refine_signed`.

``x`` and ``w`` [blocks, groups, n]; scales [blocks, groups]; d [blocks]. For given codes the error of a scale is a
quadratic with the moments Σ w·x·code and Σ w·code² [blocks, groups, 2] as coefficients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hubquant.quants.tensor.arithmetic import LARGEST, extreme, keep_better, reciprocal, to_half, total
from hubquant.quants.tensor.fusion import fused, per_block
from hubquant.quants.tensor.scaled import Even, scaled_error

_SUPER_SCALES = (0.9, 0.95, 1.0, 1.05, 1.1)


def _moments(x: Tensor, w: Tensor, inverse: Tensor, levels: Even) -> Tensor:
    level = levels.nearest(inverse.unsqueeze(-1) * x)
    weighted = w * level
    return torch.stack((total(weighted * x), total(weighted * level)), dim=-1)


@fused(per_block)
def _search_scale(
    x: Tensor, w: Tensor, start: Tensor, levels: Even, shifts: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """The best scale by least squares, and its moments. ``start`` puts the extreme at the first level; the candidates
    put it ``shifts`` levels outside of the first and of the last.
    """
    per_level = reciprocal(start) * (1 / levels.low)
    blank = torch.zeros_like(start)
    best: tuple[Tensor, ...] = (blank, start, torch.stack((blank, blank), dim=-1))
    for shift in shifts:
        for end in (levels.low - shift, levels.high + shift):
            moments = _moments(x, w, per_level * end, levels)
            fitted = moments[..., 0] / moments[..., 1]
            gain = fitted * moments[..., 0]
            best = keep_better((gain > best[0]) & (gain < LARGEST), (gain, fitted, moments), best)
    return best[1], best[2]


@fused(per_block)
def _error(x: Tensor, w: Tensor, scale: Tensor, levels: Even) -> Tensor:
    return total(scaled_error(x, w, scale, levels))


def _whole(moments: Tensor, d: Tensor, bounds: Even) -> tuple[Tensor, Tensor]:
    """The error less Σ w·x² of the best whole scales for the codes of the moments, and those scales."""
    lx, ll = moments.unbind(-1)
    d = d.unsqueeze(-1)
    found = bounds.nearest(torch.where(ll > 0, lx / ll, 0) * reciprocal(d))
    return d * found * (d * found * ll - 2 * lx), found


def _fit_super(moments: Tensor, scales: Tensor, d: Tensor) -> Tensor:
    """d by least squares."""
    lx, ll = moments.unbind(-1)
    fitted = total(scales * lx) / total(scales * scales * ll)
    return torch.where(fitted.abs() < LARGEST, to_half(fitted), d)


def _start(moments: Tensor, value: Tensor, bounds: Even) -> tuple[Tensor, ...]:
    """d and whole scales for real ones, ``value`` the extreme of these: the best of several d."""
    best: tuple[Tensor, ...] = ()
    for factor in _SUPER_SCALES:
        for end in (bounds.low, bounds.high):
            d = to_half(value / end * factor)
            d = _fit_super(moments, _whole(moments, d, bounds)[1], d)
            excess, scales = _whole(moments, d, bounds)
            found = (total(excess), d, scales)
            best = keep_better(found[0] < best[0], found, best) if best else found
    return best[1:]


@fused(per_block)
def _improve(x: Tensor, w: Tensor, d: Tensor, scales: Tensor, levels: Even, bounds: Even) -> tuple[Tensor, Tensor]:
    """The best whole scales for the codes of the present ones and of their two neighbours, and their moments."""
    best: tuple[Tensor, ...] = ()
    for up in (-1, 0, 1):
        other = (scales + up).clamp(bounds.low, bounds.high)
        moments = _moments(x, w, reciprocal(d.unsqueeze(-1) * other), levels)
        found = (*_whole(moments, d, bounds), moments)
        best = keep_better(found[0] < best[0], found, best) if best else found
    return best[1], best[2]


def best_scales(
    x: Tensor, w: Tensor, levels: Even, bounds: Even, shifts: tuple[float, ...], rounds: int
) -> tuple[Tensor, Tensor]:
    """d and whole scales within ``bounds``; each of ``rounds`` rounds codes anew, and fits d to them."""
    start = extreme(x) / levels.low
    d = to_half(extreme(start) / bounds.low)
    scales = bounds.nearest(start * reciprocal(d).unsqueeze(-1))
    best: tuple[Tensor, ...] = (_error(x, w, d.unsqueeze(-1) * scales, levels), d, scales)
    scale, moments = _search_scale(x, w, start, levels, shifts)
    d, scales = _start(moments, extreme(scale), bounds)
    for step in range(rounds + 1):
        error = _error(x, w, d.unsqueeze(-1) * scales, levels)
        best = keep_better(error < best[0], (error, d, scales), best)
        if step < rounds:
            scales, moments = _improve(x, w, d, scales, levels, bounds)
            d = _fit_super(moments, scales, d)
    return best[1], best[2]

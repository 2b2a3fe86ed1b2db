"""The search of Q2_K, Q4_K and Q5_K: x ≈ d·s·code − dmin·m, whole s and m per sub-block; as :mod:`cpu.best.pairs`.

``x`` and ``w`` [blocks, groups, n]; scales and minima [blocks, groups]; d and dmin [blocks]. For given codes the error
is a quadratic of scale and minimum, with the moments [blocks, groups, 5] as coefficients: Σ w·code², Σ w·code, Σ w,
Σ w·code·x, Σ w·x.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hubquant.quants.tensor.affine import affine_error
from hubquant.quants.tensor.arithmetic import (
    LARGEST,
    LARGEST_HALF,
    keep_better,
    reciprocal,
    rounded,
    spread,
    to_half,
    total,
)
from hubquant.quants.tensor.fusion import fused, per_block

_SINGULAR = 1e-5  # of a 2 × 2 system, relative to the product of its diagonal
_SUPER_SCALES = 5
_ROUNDS = 3


def _moments(x: Tensor, w: Tensor, codes: Tensor) -> Tensor:
    weighted = w * codes
    return torch.stack((total(weighted * codes), total(weighted), total(w), total(weighted * x), total(w * x)), dim=-1)


def _excess(moments: Tensor, scale: Tensor, low: Tensor) -> Tensor:
    """The error less Σ w·x²."""
    ll, lw, ww, lx, xx = moments.unbind(-1)
    return scale * (scale * ll - 2 * (low * lw + lx)) + low * (low * ww + 2 * xx)


@fused(per_block)
def _search_line(
    x: Tensor, w: Tensor, top: float, ends: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Scale and minimum ≥ 0 that span the range; the best by least squares, and their moments: the two ends of the
    range at each of ``ends``, so many codes outside of 0 … top.
    """
    span_low = -x.amin(-1).clamp(max=0)
    span = (x.amax(-1) + span_low) / top
    per_code = reciprocal(span).unsqueeze(-1)
    moments = _moments(x, w, torch.zeros_like(x))
    best: tuple[Tensor, ...] = (torch.zeros_like(span), span, span_low, moments)
    for below in ends:
        for above in ends:
            inverse = per_code * (1 + (below + above) / top)
            found = _moments(x, w, rounded(x * inverse + (span_low.unsqueeze(-1) * inverse - below), 0, top))
            ll, lw, ww, lx, xx = found.unbind(-1)
            determinant = ww * ll - lw * lw
            low = (lw * lx - ll * xx) / determinant
            scale = torch.where(low < 0, lx / ll, (ww * lx - xx * lw) / determinant)
            low = low.clamp(min=0)
            excess = _excess(found, scale, low)
            better = (determinant > _SINGULAR * ww * ll) & (excess < best[0]) & (excess > -LARGEST)
            best = keep_better(better, (excess, scale, low, found), best)
    return span, span_low, best[1], best[2], best[3]


@fused(per_block)
def _whole(moments: Tensor, d: Tensor, dmin: Tensor, scale: Tensor, low: Tensor, most: float) -> tuple[Tensor, ...]:
    """The best of three whole scales around ``scale``, each with its best whole minimum, for the codes of the moments:
    ``(excess, scale, minimum)``.
    """
    d, dmin = d.unsqueeze(-1), dmin.unsqueeze(-1)
    per_dmin = reciprocal(dmin)
    _, lw, ww, _, xx = moments.unbind(-1)
    best: tuple[Tensor, ...] = (torch.full_like(scale, LARGEST), scale, low)
    for up in (-1, 0, 1):
        other = (scale + up).clamp(0, most)
        fitted = (d * other * lw - xx) / ww * per_dmin
        other_low = torch.where(ww > 0, rounded(fitted, 0, most), low)
        excess = _excess(moments, d * other, dmin * other_low)
        best = keep_better(excess < best[0], (excess, other, other_low), best)
    return best


@fused(per_block)
def _moments_of(x: Tensor, w: Tensor, d: Tensor, dmin: Tensor, scale: Tensor, low: Tensor, top: float) -> Tensor:
    """The moments of the codes that whole scales and minima give."""
    inverse = reciprocal(d.unsqueeze(-1) * scale)
    shift = dmin.unsqueeze(-1) * low * inverse
    return _moments(x, w, rounded(x * inverse.unsqueeze(-1) + shift.unsqueeze(-1), 0, top))


@fused(per_block)
def _error(x: Tensor, w: Tensor, d: Tensor, dmin: Tensor, scale: Tensor, low: Tensor, top: float) -> Tensor:
    return total(affine_error(x, w, d.unsqueeze(-1) * scale, -(dmin.unsqueeze(-1) * low), top))


def _fit_super(moments: Tensor, scales: Tensor, minima: Tensor, d: Tensor, dmin: Tensor) -> tuple[Tensor, Tensor]:
    """d and dmin ≥ 0 by least squares."""
    ll, lw, ww, lx, xx = moments.unbind(-1)
    ss, sm, mm = total(scales * scales * ll), total(scales * minima * lw), total(minima * minima * ww)
    sx, mx = total(scales * lx), total(minima * xx)
    determinant = ss * mm - sm * sm
    regular = determinant > _SINGULAR * ss * mm
    fitted = torch.where(regular, (sx * mm - mx * sm) / determinant, (sx + dmin * sm) / ss)
    fitted_min = torch.where(regular, (sx * sm - mx * ss) / determinant, dmin)
    usable = (fitted > 0) & (fitted < LARGEST_HALF) & (fitted_min >= 0)
    return torch.where(usable, to_half(fitted), d), torch.where(usable, to_half(fitted_min), dmin)


@fused(per_block)
def _positive_scale(values: Tensor, mass: Tensor, most: float) -> Tensor:
    """The scale for codes 0 … most of ``values`` ≥ 0 [blocks, groups] with the weights ``mass``: the best by least
    squares among inverse scales (most ± 4) / maximum.
    """
    high = values.amax(-1)
    per_high = reciprocal(high)
    best, d = torch.zeros_like(high), high / most
    for step in range(-16, 17):
        codes = rounded(values * ((most + 0.25 * step) * per_high).unsqueeze(-1), 0, most)
        xl, l2 = total(mass * values * codes), total(mass * codes * codes)
        gain = xl * xl / l2
        best, d = keep_better((gain > best) & (gain < LARGEST), (gain, xl / l2), (best, d))
    return d


def _rounded(value: Tensor, step: Tensor, most: float) -> Tensor:
    return rounded(value * reciprocal(step).unsqueeze(-1), 0, most)


def _start(moments: Tensor, mass: Tensor, scale: Tensor, low: Tensor, most: float, reach: float) -> tuple[Tensor, ...]:
    """d, dmin and whole scales and minima for real ones: the best of some d within ±``reach``, each with two dmin."""
    middle, plain_dmin = _positive_scale(scale, mass, most), to_half(low.amax(-1) / most)
    best: tuple[Tensor, ...] = ()
    for dmin_start in (to_half(_positive_scale(low, mass, most)), plain_dmin):
        for shift in spread(reach, _SUPER_SCALES):
            d, dmin = to_half(middle * (1 + shift)), dmin_start
            for _ in range(2):
                _, scales, minima = _whole(moments, d, dmin, _rounded(scale, d, most), _rounded(low, dmin, most), most)
                d, dmin = _fit_super(moments, scales, minima, d, dmin)
            excess = total(_excess(moments, d.unsqueeze(-1) * scales, dmin.unsqueeze(-1) * minima))
            found = (excess, d, dmin, scales, minima)
            best = keep_better(found[0] < best[0], found, best) if best else found
    return best[1:]


def _improve(
    x: Tensor, w: Tensor, d: Tensor, dmin: Tensor, scale: Tensor, low: Tensor, moments: Tensor, top: float, most: float
) -> tuple[Tensor, ...]:
    """Better whole scales and minima, and their moments: codes are rounded for the present pair and for the pairs one
    above and one below, and the best pair for each of these codes is considered.
    """
    best: tuple[Tensor, ...] = (torch.full_like(scale, LARGEST), scale, low, moments)
    for up in (-1, 0, 1):
        other, other_low = (scale + up).clamp(0, most), (low + up).clamp(0, most)
        trial = _moments_of(x, w, d, dmin, other, other_low, top)
        found = (*_whole(trial, d, dmin, other, other_low, most), trial)
        best = keep_better(found[0] < best[0], found, best)
    return best[1:]


def best_pairs(
    x: Tensor, w: Tensor, top: float, most: float, ends: tuple[float, ...], reach: float
) -> tuple[Tensor, ...]:
    """d, dmin and whole scales and minima 0 … most, for codes 0 … top."""
    mass = total(w)
    span, span_low, scale, low, moments = _search_line(x, w, top, ends)
    d, dmin = to_half(_positive_scale(span, mass, most)), to_half(_positive_scale(span_low, mass, most))
    scales, minima = _rounded(span, d, most), _rounded(span_low, dmin, most)
    best: tuple[Tensor, ...] = (_error(x, w, d, dmin, scales, minima, top), d, dmin, scales, minima)
    d, dmin, scales, minima = _start(moments, mass, scale, low, most, reach)
    for _ in range(_ROUNDS):
        scales, minima, moments = _improve(x, w, d, dmin, scales, minima, moments, top, most)
        error = _error(x, w, d, dmin, scales, minima, top)
        best = keep_better(error < best[0], (error, d, dmin, scales, minima), best)
        d, dmin = _fit_super(moments, scales, minima, d, dmin)
    return best[1:]

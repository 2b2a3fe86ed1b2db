"""A scale and a minimum per block: x ≈ scale · code + low, codes 0 … top.

``x`` and ``w`` [..., n] are weights and the weight of each squared error; scales and minima are [...].
"""

from __future__ import annotations

import torch
from torch import Tensor

from hubquant.quants.tensor.arithmetic import LARGEST, keep_better, reciprocal, rounded, to_half, total
from hubquant.quants.tensor.fusion import fused, per_block

_REFITS = 2
_SINGULAR = 1e-6  # of a 2 × 2 system, relative to the product of its diagonal


def codes_of(x: Tensor, scale: Tensor, low: Tensor, top: float) -> Tensor:
    """The nearest codes 0 … top of ``x`` [..., n] for scales and minima [...]: whole floats [..., n]."""
    inverse = reciprocal(scale).unsqueeze(-1)
    return rounded((x - low.unsqueeze(-1)) * inverse, 0, top)


def affine_error(x: Tensor, w: Tensor, scale: Tensor, low: Tensor, top: float) -> Tensor:
    """Σ w·(scale·code + low − x)² with the best codes."""
    return _squares(x, w, scale, low, codes_of(x, scale, low, top))


def _squares(x: Tensor, w: Tensor, scale: Tensor, low: Tensor, codes: Tensor) -> Tensor:
    error = scale.unsqueeze(-1) * codes + low.unsqueeze(-1) - x
    return total(w * (error * error))


def _codes_per(span: Tensor, codes: float) -> Tensor:
    """codes / span, 0 for no span. A number divided by a tensor is to torch its product with the reciprocal."""
    return torch.where(span > 0, torch.full_like(span, codes) / span, 0)


@fused(per_block)
def line_search(x: Tensor, w: Tensor, top: float, shifts: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Scale and low ≤ 0 (``make_qkx3_quants``): for each of the inverse scales (top + ``shifts``) / range, codes by
    rounding, then least squares. A better low is at once the base of the next candidates.
    """
    low = x.amin(-1).clamp(max=0)
    high = x.amax(-1)
    sum_w, sum_x = total(w), total(w * x)
    alive = high > low
    inverse = _codes_per(high - low, top)
    scale = torch.where(alive, 1 / inverse, 0)
    best = _squares(x, w, scale, low, rounded(inverse.unsqueeze(-1) * (x - low.unsqueeze(-1)), 0, top))
    for shift in shifts:
        inverse = _codes_per(high - low, shift + top)
        codes = rounded(inverse.unsqueeze(-1) * (x - low.unsqueeze(-1)), 0, top)
        weighted = w * codes
        sum_l, sum_l2, sum_xl = total(weighted), total(weighted * codes), total(weighted * x)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        intercept = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        positive = intercept > 0
        slope = torch.where(positive, sum_xl / sum_l2, (sum_w * sum_xl - sum_x * sum_l) / determinant)
        intercept = torch.where(positive, 0, intercept)
        squares = _squares(x, w, slope, intercept, codes)
        better = alive & (determinant > 0) & (squares < best)
        best, scale, low = keep_better(better, (squares, slope, intercept), (best, scale, low))
    return scale, low


def _least_squares(x: Tensor, w: Tensor, inverse: Tensor, base: Tensor, top: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scale and low for the codes of ``inverse · (x − base)``, and their gain: the error is Σ w·x² − gain. The gain is
    hugely negative where the codes are all but the same.
    """
    codes = rounded((x - base.unsqueeze(-1)) * inverse.unsqueeze(-1), 0, top)
    weighted = w * codes
    sum_w, sum_x = total(w), total(w * x)
    sum_l, sum_l2, sum_xl = total(weighted), total(weighted * codes), total(weighted * x)
    determinant = sum_w * sum_l2 - sum_l * sum_l
    scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
    low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
    gain = torch.where(determinant > _SINGULAR * sum_w * sum_l2, scale * sum_xl + low * sum_x, -LARGEST)
    return scale, low, gain


@fused(per_block)
def search_line(
    x: Tensor, w: Tensor, scale: Tensor, low: Tensor, top: float, shifts: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """The best scale and low of either sign by least squares, among those that spread the range of ``x`` over
    ``top`` + ``shifts`` codes, and those that ``scale`` and ``low`` give.
    """
    least = x.amin(-1)
    per_range = reciprocal(x.amax(-1) - least)
    fitted, fitted_low, gain = _least_squares(x, w, reciprocal(scale), low, top)
    known = (gain > -LARGEST) & (gain < LARGEST)
    best, scale, low = keep_better(known, (gain, fitted, fitted_low), (torch.full_like(gain, -LARGEST), scale, low))
    for shift in shifts:
        fitted, fitted_low, gain = _least_squares(x, w, (top + shift) * per_range, least, top)
        better = (gain > best) & (gain < LARGEST)
        best, scale, low = keep_better(better, (gain, fitted, fitted_low), (best, scale, low))
    return scale, low


@fused(per_block)
def fit_line(x: Tensor, w: Tensor, scale: Tensor, low: Tensor, top: float) -> tuple[Tensor, Tensor]:
    """The best scale and low for the codes that ``scale`` and ``low`` give."""
    fitted, fitted_low, gain = _least_squares(x, w, reciprocal(scale), low, top)
    known = (gain > -LARGEST) & (gain < LARGEST)
    return torch.where(known, fitted, scale), torch.where(known, fitted_low, low)


@fused(per_block)
def _error_of(x: Tensor, w: Tensor, scale: Tensor, low: Tensor, top: float) -> Tensor:
    return affine_error(x, w, scale, low, top)


def half_line(
    x: Tensor, w: Tensor, scale: Tensor, low: Tensor, top: float, shifts: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Half-precision scale and low: the better of those given and the best found around them."""
    best_d, best_m = to_half(scale), to_half(low)
    best = _error_of(x, w, best_d, best_m, top)
    d, m = map(to_half, search_line(x, w, scale, low, top, shifts))
    for step in range(_REFITS + 1):
        error = _error_of(x, w, d, m, top)
        best, best_d, best_m = keep_better(error < best, (error, d, m), (best, best_d, best_m))
        if step < _REFITS:
            d, m = map(to_half, fit_line(x, w, d, m, top))
    return best_d, best_m

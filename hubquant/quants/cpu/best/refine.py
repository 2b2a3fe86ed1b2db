"""What the searches of the mode "best" share, and the search for one real scale and minimum.

``x`` and ``w`` point to the weights of 16 blocks and the weight of each squared error; codes, integer scales and minima
are whole floats.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hubquant.quants.cpu.vector.block import clamp, from_half, half_bits, maximum, minimum, reciprocal
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.simd import Pointer, Vector, splat, where

_f = np.float32
_ZERO, _ONE = _f(0), _f(1)
_MAGIC = _f(12582912.0)
_LARGEST_HALF = _f(65504)
_LARGEST = _f(3e38)
_SINGULAR = _f(1e-6)  # of a 2 × 2 system, relative to the product of its diagonal


class Ends(NamedTuple):
    """Trial scales: the ends of the range lie ``first`` … ``last`` codes outside of the outermost codes, at ``steps``
    distances.
    """

    first: np.float32
    last: np.float32
    steps: int


@primitive
def code(value: Vector, low: np.float32, high: np.float32) -> Vector:
    """The nearest whole number in low … high; ``low`` for NaN."""
    return clamp((value + _MAGIC) - _MAGIC, low, high)


@primitive
def to_half(value: Vector) -> Vector:
    """The nearest finite number that half precision holds; 0 for NaN."""
    known = where(value == value, value, _ZERO)
    return from_half(half_bits(clamp(known, -_LARGEST_HALF, _LARGEST_HALF)))


@primitive
def growth(share: np.float32, square: Vector, product: Vector) -> Vector:
    """What to multiply x̂ by to go ``share`` of the way to Σ w·x·x̂ = Σ w·x², the two sums being ``product`` and
    ``square``.

    Least squares makes x̂ too small by the share that the error has in Σ w·x²: 1 % with 3 bits, 4 % with 2, a third with
    ternary codes. The sum of squares does not see that all these errors are in step, but the outputs of a layer do. The
    error rises by ``share``² times that share. Codes must stay as they are: rounded anew, they would shrink again.
    """
    excess = square / product - _f(1)
    return where((excess > _ZERO) & (excess < _f(1)), _f(1) + share * excess, _f(1))


@primitive
def affine_error(n: int, top: np.float32, x: Pointer, w: Pointer, scale: Vector, low: Vector) -> Vector:
    """Σ w·(scale·code − low − x)² with the best codes 0 … top."""
    inverse = reciprocal(scale)
    total = splat(_ZERO)
    for i in range(n):
        error = scale * code((x[i] + low) * inverse, _ZERO, top) - low - x[i]
        total = total + w[i] * (error * error)
    return total


@primitive
def signed_error(n: int, bottom: np.float32, top: np.float32, x: Pointer, w: Pointer, scale: Vector) -> Vector:
    """Σ w·(scale·code − x)² with the best codes bottom … top."""
    inverse = reciprocal(scale)
    total = splat(_ZERO)
    for i in range(n):
        error = scale * code(x[i] * inverse, bottom, top) - x[i]
        total = total + w[i] * (error * error)
    return total


@primitive
def line_of(
    n: int, top: np.float32, x: Pointer, w: Pointer, inverse: Vector, base: Vector
) -> tuple[Vector, Vector, Vector]:
    """Least squares for the codes of ``inverse · (x − base)``: ``(scale, low, gain)``, the error being Σ w·x² − gain.

    The gain is hugely negative where the codes are all but the same.
    """
    sum_w = splat(_ZERO)
    sum_x = splat(_ZERO)
    sum_l = splat(_ZERO)
    sum_l2 = splat(_ZERO)
    sum_xl = splat(_ZERO)
    for i in range(n):
        level = code((x[i] - base) * inverse, _ZERO, top)
        weighted = w[i] * level
        sum_w = sum_w + w[i]
        sum_x = sum_x + w[i] * x[i]
        sum_l = sum_l + weighted
        sum_l2 = sum_l2 + weighted * level
        sum_xl = sum_xl + weighted * x[i]
    determinant = sum_w * sum_l2 - sum_l * sum_l
    scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
    low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
    gain = where(determinant > _SINGULAR * sum_w * sum_l2, scale * sum_xl + low * sum_x, -_LARGEST)
    return scale, low, gain


@primitive
def search_line(
    n: int, top: np.float32, reach: np.float32, steps: int, x: Pointer, w: Pointer, scale: Vector, low: Vector
) -> tuple[Vector, Vector]:
    """The best scale and minimum of either sign by least squares, among ``steps`` that spread the range of ``x`` over
    ``top`` ± ``reach`` codes and those that ``scale`` and ``low`` give.
    """
    least = x[0]
    most = x[0]
    for i in range(1, n):
        least = minimum(x[i], least)
        most = maximum(x[i], most)
    per_range = reciprocal(most - least)
    best_scale = scale
    best_low = low
    fitted, fitted_low, best = line_of(n, top, x, w, reciprocal(scale), low)
    known = (best > -_LARGEST) & (best < _LARGEST)
    best = where(known, best, -_LARGEST)
    best_scale = where(known, fitted, scale)
    best_low = where(known, fitted_low, low)
    for step in range(steps):
        levels = top + reach * (_f(2 * step) / _f(steps - 1) - _ONE)
        fitted, fitted_low, gain = line_of(n, top, x, w, levels * per_range, least)
        better = (gain > best) & (gain < _LARGEST)
        best = where(better, gain, best)
        best_scale = where(better, fitted, best_scale)
        best_low = where(better, fitted_low, best_low)
    return best_scale, best_low


@primitive
def fit_line(n: int, top: np.float32, x: Pointer, w: Pointer, d: Vector, m: Vector) -> tuple[Vector, Vector]:
    """The best d and m for the codes that ``d`` and ``m`` give."""
    scale, low, gain = line_of(n, top, x, w, reciprocal(d), m)
    known = (gain > -_LARGEST) & (gain < _LARGEST)
    return where(known, scale, d), where(known, low, m)

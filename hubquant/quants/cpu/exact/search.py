"""The searches for scale and minimum, one block per lane. They follow ggml-quants.c operation by operation: the order
of additions and products, the strictness of comparisons and the fate of degenerate blocks all decide bytes.

``x`` and ``w`` point to ``n`` vectors: the weights of 16 blocks and the weight of each squared error. Codes are whole
floats.
"""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.vector.block import clamp, maximum, minimum, nearest, nearest_small
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    Vector,
    absolute,
    any_lane,
    offset,
    splat,
    to_float,
    to_int,
    vectors,
    where,
)

_f = np.float32
ZERO, ONE = _f(0), _f(1)
_TINY = _f(1e-15)  # GROUP_MAX_EPS: groups below it count as zero
_TENTH = _f(0.1)
_SMALL = _f(2.0**21)


@primitive
def extreme(n: int, x: Pointer) -> tuple[Vector, Vector]:
    """The first value of largest magnitude, and that magnitude."""
    value = splat(ZERO)
    magnitude = splat(ZERO)
    for i in range(n):
        larger = magnitude < absolute(x[i])
        magnitude = where(larger, absolute(x[i]), magnitude)
        value = where(larger, x[i], value)
    return value, magnitude


@primitive
def symmetric(n: int, levels: np.float32, x: Pointer, w: Pointer, finite: bool) -> tuple[Vector, Vector]:
    """Scale for codes −levels … levels − 1 (``make_qx_quants``, rmse_type 1): 19 inverse scales around −levels /
    extreme, the best by least squares. Values that are ``finite`` stay small when they are scaled.

    Returns ``(scale, inverse)``: the codes are those of ``inverse``, which is 0 in groups that are all but zero.
    """
    value, magnitude = extreme(n, x)
    alive = magnitude >= _TINY
    scale = splat(ZERO)
    best = splat(ZERO)
    inverse = splat(ZERO)
    products = vectors(32)
    for i in range(n):
        products[i] = w[i] * x[i]
    for step in range(19):
        shift = step - 10 if step < 10 else step - 9  # 0 first, then −9 … 9 without 0
        numerator = -(levels if step == 0 else levels + _TENTH * _f(shift))
        candidate = where(alive, numerator / value, ZERO)
        lx = splat(ZERO)
        ll = splat(ZERO)
        for i in range(n):
            scaled = candidate * x[i]
            code = clamp(nearest_small(scaled) if finite else nearest(scaled), -levels, levels - ONE)
            lx = lx + products[i] * code
            ll = ll + w[i] * code * code
        if step == 0:
            inverse = candidate
            scale = where(ll != ZERO, lx / ll, ZERO)
            best = scale * lx
        else:
            better = (ll > ZERO) & (lx * lx > best * ll)
            inverse = where(better, candidate, inverse)
            scale = where(better, lx / ll, scale)
            best = where(better, scale * lx, best)
    return where(alive, scale, ZERO), inverse


@primitive
def symmetric_code(inverse: Vector, levels: np.float32, x: Vector) -> Vector:
    """The stored code (offset by ``levels``) that :func:`symmetric` ended with."""
    return where(inverse == ZERO, ZERO, clamp(nearest(inverse * x), -levels, levels - ONE) + levels)


@primitive
def _line_sums(
    n: int, top: np.float32, small: bool, x: Pointer, w: Pointer, inverse: Vector, base: Vector, codes: Pointer
) -> tuple[Vector, Vector, Vector]:
    """``codes`` 0 … top of inverse · (x − base), and Σ w·code, Σ w·code², Σ w·code·x."""
    sum_l = splat(ZERO)
    sum_l2 = splat(ZERO)
    sum_xl = splat(ZERO)
    for i in range(n):
        scaled = inverse * (x[i] - base)
        code = clamp(nearest_small(scaled) if small else nearest(scaled), ZERO, top)
        codes[i] = code
        weighted = w[i] * code
        sum_l = sum_l + weighted
        sum_l2 = sum_l2 + weighted * code
        sum_xl = sum_xl + weighted * x[i]
    return sum_l, sum_l2, sum_xl


@primitive
def _line(sum_w: Vector, sum_x: Vector, sum_l: Vector, sum_l2: Vector, sum_xl: Vector) -> tuple[Vector, Vector, Vector]:
    """The slope s and intercept m of least Σ w·(s·code + m − x)², s·Σ w·code² + m·Σ w·code = Σ w·code·x and
    s·Σ w·code + m·Σ w = Σ w·x; where that m is positive it is 0, and s = Σ w·code·x / Σ w·code². And the determinant.
    """
    determinant = sum_w * sum_l2 - sum_l * sum_l
    intercept = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
    positive = intercept > ZERO
    slope = where(positive, sum_xl / sum_l2, (sum_w * sum_xl - sum_x * sum_l) / determinant)
    return slope, where(positive, ZERO, intercept), determinant


@primitive
def _line_error(n: int, x: Pointer, w: Pointer, slope: Vector, low: Vector, codes: Pointer, linear: bool) -> Vector:
    """Σ w·(slope·code + low − x)², or Σ w·|slope·code + low − x| if ``linear``."""
    total = splat(ZERO)
    for i in range(n):
        error = slope * codes[i] + low - x[i]
        total = total + w[i] * (absolute(error) if linear else error * error)
    return total


@primitive
def asymmetric(
    n: int, top: np.float32, x: Pointer, w: Pointer, start: np.float32, delta: np.float32, steps: int, linear: bool
) -> tuple[Vector, Vector, Vector, Vector]:
    """Scale and minimum ≤ 0 for codes 0 … top (``make_qkx2_quants``, ``make_qkx3_quants``): for each of ``steps`` + 1
    inverse scales ``top + start + delta · step`` over the range, codes by rounding, then weighted least squares;
    ``linear`` counts |error| instead of its square.

    A better minimum at once becomes the base of the following candidates. Returns ``(scale, minimum, inverse, base)``:
    the codes are those of ``inverse · (x − base)``.
    """
    codes = vectors(32)
    low = x[0]
    high = x[0]
    sum_w = w[0]
    sum_x = sum_w * x[0]
    for i in range(1, n):
        low = minimum(x[i], low)
        high = maximum(x[i], high)
        sum_w = sum_w + w[i]
        sum_x = sum_x + w[i] * x[i]
    least = low
    low = where(low > ZERO, ZERO, low)
    alive = high > low
    inverse = where(alive, top / (high - low), ZERO)
    scale = where(alive, ONE / inverse, ZERO)
    base = low
    for i in range(n):
        codes[i] = clamp(nearest(inverse * (x[i] - low)), ZERO, top)
    best = _line_error(n, x, w, scale, low, codes, linear)
    for step in range(steps + 1):
        candidate = where(alive, (start + delta * _f(step) + top) / (high - low), ZERO)
        largest = absolute(candidate) * maximum(absolute(high - low), absolute(least - low))
        if any_lane(~(largest < _SMALL)):  # all but never
            sum_l, sum_l2, sum_xl = _line_sums(n, top, False, x, w, candidate, low, codes)
        else:
            sum_l, sum_l2, sum_xl = _line_sums(n, top, True, x, w, candidate, low, codes)
        slope, intercept, determinant = _line(sum_w, sum_x, sum_l, sum_l2, sum_xl)
        total = _line_error(n, x, w, slope, intercept, codes, linear)
        better = alive & (determinant > ZERO) & (total < best)
        best = where(better, total, best)
        scale = where(better, slope, scale)
        inverse = where(better, candidate, inverse)
        base = where(better, low, base)
        low = where(better, intercept, low)
    return scale, low, inverse, base


@primitive
def _positive_inverse(n: int, top: np.float32, x: Pointer, w: Pointer, high: Vector, alive: Vector) -> Vector:
    """Of nine inverse scales around ``top`` / ``high`` the one with the least Σ w·(x − scale·code)²."""
    inverse = where(alive, top / high, ZERO)
    step_size = where(alive, ONE / inverse, ZERO)
    best = splat(ZERO)
    for i in range(n):
        error = x[i] - step_size * _as_byte(nearest(inverse * x[i]))
        best = best + w[i] * error * error
    for shift in range(-4, 5):
        if shift != 0:
            candidate = where(alive, (_TENTH * _f(shift) + top) / high, ZERO)
            step_size = ONE / candidate
            total = splat(ZERO)
            for i in range(n):
                error = x[i] - step_size * minimum(nearest(candidate * x[i]), top)
                total = total + w[i] * error * error
            better = alive & (total < best)
            best = where(better, total, best)
            inverse = where(better, candidate, inverse)
    return inverse


@primitive
def positive(n: int, top: np.float32, x: Pointer, w: Pointer, codes: Pointer) -> Vector:
    """Scale for codes 0 … top of values that are not negative (``make_qp_quants``): nine inverse scales, then up to
    five rounds of coordinate descent, in which a code changes where that makes (Σ w·x·code)² / Σ w·code² greater.

    Writes ``codes`` and returns the scale Σ w·x·code / Σ w·code².
    """
    high = splat(ZERO)
    for i in range(n):
        high = maximum(high, x[i])
    alive = high >= _TINY
    inverse = _positive_inverse(n, top, x, w, high, alive)
    sum_xl = splat(ZERO)
    sum_l2 = splat(ZERO)
    for i in range(n):
        code = minimum(nearest(inverse * x[i]), top)
        codes[i] = _as_byte(code)
        sum_xl = sum_xl + w[i] * x[i] * code
        sum_l2 = sum_l2 + w[i] * code * code
    for _ in range(5):
        changed = splat(ZERO)
        for i in range(n):
            xl = sum_xl - w[i] * x[i] * codes[i]
            l2 = sum_l2 - w[i] * codes[i] * codes[i]
            code = minimum(nearest(x[i] * l2 / xl), top)
            open_lane = alive & (xl > ZERO) & (l2 > ZERO) & (code != codes[i])
            xl = xl + w[i] * x[i] * code
            l2 = l2 + w[i] * code * code
            better = open_lane & (xl * xl * sum_l2 > sum_xl * sum_xl * l2)
            codes[i] = where(better, _as_byte(code), codes[i])
            sum_xl = where(better, xl, sum_xl)
            sum_l2 = where(better, l2, sum_l2)
            changed = where(better, ONE, changed)
        if not any_lane(changed > ZERO):
            break
    return where(sum_l2 > ZERO, sum_xl / sum_l2, ZERO)


@primitive
def _as_byte(code: Vector) -> Vector:
    """C keeps these codes in ``uint8_t``; a negative one, which only degenerate scales give, wraps around."""
    return to_float(to_int(code) & 255)


@primitive
def descent(groups: int, n: int, levels: np.float32, x: Pointer, codes: Pointer, scale: Pointer) -> None:
    """Scales for codes −levels … levels − 1 weighted by x² (``make_q3_quants``): rounding, then up to five rounds of
    coordinate descent.

    Writes ``scale`` and the stored codes (offset by ``levels``; 0 in groups that are all but zero) of neighbouring
    groups. These take their steps in turns, because each step waits for the division in the one before.
    """
    inverse, sum_xl, sum_l2 = vectors(16), vectors(16), vectors(16)
    for j in range(groups):
        value, magnitude = extreme(n, offset(x, n * j))
        inverse[j] = where(magnitude >= _TINY, -levels / value, ZERO)
        sum_xl[j], sum_l2[j] = splat(ZERO), splat(ZERO)
        for i in range(n * j, n * j + n):
            code = clamp(nearest(inverse[j] * x[i]), -levels, levels - ONE)
            codes[i] = code
            weight = x[i] * x[i]
            sum_xl[j] = sum_xl[j] + weight * x[i] * code
            sum_l2[j] = sum_l2[j] + weight * code * code
    for _ in range(5):
        changed = splat(ZERO)
        for i in range(n):
            for j in range(groups):
                value, old = x[n * j + i], codes[n * j + i]
                weight = value * value
                xl = sum_xl[j] - weight * value * old
                l2 = sum_l2[j] - weight * old * old
                code = clamp(nearest(value * l2 / xl), -levels, levels - ONE)
                possible = (xl > ZERO) & (code != old)
                xl = xl + weight * value * code
                l2 = l2 + weight * code * code
                better = possible & (l2 > ZERO) & (xl * xl * sum_l2[j] > sum_xl[j] * sum_xl[j] * l2)
                codes[n * j + i] = where(better, code, old)
                sum_xl[j] = where(better, xl, sum_xl[j])
                sum_l2[j] = where(better, l2, sum_l2[j])
                changed = where(better, ONE, changed)
        if not any_lane(changed > ZERO):
            break
    for j in range(groups):
        for i in range(n * j, n * j + n):
            codes[i] = where(inverse[j] != ZERO, codes[i] + levels, ZERO)
        scale[j] = where(sum_l2[j] > ZERO, sum_xl[j] / sum_l2[j], ZERO)

"""What stored scales and codes stand for, and which other ones lie near them.

A weight is step · level − low. Step and low are what a stored scale and a stored minimum give, of which each group of
neighbours has its own; d and dmin are super-scales, 1 where a type has none. ``limits`` float32 [9] holds the lowest
level, the number of levels above it, their distance and its reciprocal; the least and the largest stored scale; the
least and the largest stored minimum; how far apart trial scales are where they are real numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hubquant.quants.cpu.best.refine import to_half
from hubquant.quants.cpu.exact.float4 import e4m3, half_of_e4m3
from hubquant.quants.cpu.exact.nonlinear import level as iq4
from hubquant.quants.cpu.vector.block import clamp, nearest_small, reciprocal
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.simd import Vector, absolute, float_bits, from_bits, splat_int, to_float, to_int, where
from hubquant.quants.levels import FLOAT4

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _ONE = _f(0), _f(1)
_MAGNITUDES = np.array([2 * level for level in FLOAT4 if level >= 0], np.float32)
_MIDDLES = (_MAGNITUDES[:-1] + _MAGNITUDES[1:]) / _f(2)


class Steps(NamedTuple):
    """Primitives of a kind of type: ``level(value, limits)``, the level nearest to a value; ``step(d, scale)`` and
    ``low(dmin, minimum)``; ``near(d, scale, away, limits)`` and ``near_low(dmin, minimum, step, away, limits)``, the
    stored numbers ``away`` steps from others; ``fit(d, step, limits)`` and ``fit_low(dmin, low, limits)``, those that
    come nearest to what is wanted.
    """

    level: Callable[..., Vector]
    step: Callable[..., Vector]
    near: Callable[..., Vector]
    fit: Callable[..., Vector]
    low: Callable[..., Vector]
    near_low: Callable[..., Vector]
    fit_low: Callable[..., Vector]


# ---- levels ---------------------------------------------------------------------------------------------------------


@primitive
def _even(value: Vector, limits: Array) -> Vector:
    return limits[0] + limits[2] * clamp(nearest_small((value - limits[0]) * limits[3]), _ZERO, limits[1])


@primitive
def _of_iq4(value: Vector, _limits: Array) -> Vector:
    return iq4(value)


@primitive
def _of_float4(value: Vector, _limits: Array) -> Vector:
    """Twice the numbers of E2M1, as their scales are stored as halves."""
    size = absolute(value)
    found = size * _ZERO
    for k in range(7):
        found = where(size > _MIDDLES[k], _MAGNITUDES[k + 1], found)
    return where(value < _ZERO, -found, found)


# ---- whole scales and minima of a super-scale -----------------------------------------------------------------------


@primitive
def _product(d: Vector, scale: Vector) -> Vector:
    return d * scale


@primitive
def _whole_near(_d: Vector, scale: Vector, away: int, limits: Array) -> Vector:
    return clamp(scale + _f(away), limits[4], limits[5])


@primitive
def _whole_fit(d: Vector, step: Vector, limits: Array) -> Vector:
    return clamp(nearest_small(step * reciprocal(d)), limits[4], limits[5])


@primitive
def _whole_near_low(_dmin: Vector, minimum: Vector, _step: Vector, away: int, limits: Array) -> Vector:
    return clamp(minimum + _f(away), limits[6], limits[7])


@primitive
def _whole_fit_low(dmin: Vector, low: Vector, limits: Array) -> Vector:
    return clamp(nearest_small(low * reciprocal(dmin)), limits[6], limits[7])


# ---- scales and minima in half precision ----------------------------------------------------------------------------


@primitive
def _itself(_d: Vector, scale: Vector) -> Vector:
    return scale


@primitive
def _half_near(_d: Vector, scale: Vector, away: int, limits: Array) -> Vector:
    return to_half(scale * (_ONE + limits[8] * _f(away)))


@primitive
def _half_fit(_d: Vector, step: Vector, _limits: Array) -> Vector:
    return to_half(step)


@primitive
def _half_near_low(_dmin: Vector, minimum: Vector, step: Vector, away: int, limits: Array) -> Vector:
    """Around half of all levels: as far as a scale moves them, and as finely."""
    return to_half(minimum + step * (_f(away) * limits[8] * limits[1]))


@primitive
def _half_fit_low(_dmin: Vector, low: Vector, _limits: Array) -> Vector:
    return to_half(low)


# ---- scales that are codes ------------------------------------------------------------------------------------------


@primitive
def _half_power(_d: Vector, code: Vector) -> Vector:
    """Half of 2^(code − 127), of codes 0 and 1 a denormal number."""
    e = to_int(code)
    return from_bits(where(e < 2, splat_int(0x00200000) << e, (e - 1) << 23))


@primitive
def _power_fit(_d: Vector, step: Vector, limits: Array) -> Vector:
    """The nearest power of two."""
    rounded = (float_bits(absolute(step)) + (1 << 22)) >> 23
    return clamp(to_float(rounded + 1), limits[4], limits[5])


@primitive
def _half_float(_d: Vector, code: Vector) -> Vector:
    """Half of an unsigned number of E4M3."""
    return half_of_e4m3(to_int(code))


@primitive
def _float_fit(_d: Vector, step: Vector, limits: Array) -> Vector:
    return clamp(to_float(e4m3(absolute(step + step))), limits[4], limits[5])


_WHOLE = (_product, _whole_near, _whole_fit, _product, _whole_near_low, _whole_fit_low)
_HALF = (_itself, _half_near, _half_fit, _itself, _half_near_low, _half_fit_low)
_WITHOUT_LOW = (_itself, _half_near_low, _half_fit_low)

WHOLE = Steps(_even, *_WHOLE)
WHOLE_IQ4 = Steps(_of_iq4, *_WHOLE)
HALF = Steps(_even, *_HALF)
HALF_IQ4 = Steps(_of_iq4, *_HALF)
POWER = Steps(_of_float4, _half_power, _whole_near, _power_fit, *_WITHOUT_LOW)
FLOAT8 = Steps(_of_float4, _half_float, _whole_near, _float_fit, *_WITHOUT_LOW)

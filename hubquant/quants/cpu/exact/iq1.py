"""IQ1_S and IQ1_M: levels −1, 0, 1 shifted by ±⅛, groups of 8 from a codebook, 3-bit scales for 32 or 16 weights.

Sorted weights fall into three runs, one per level; all pairs of run borders are tried.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.exact.codebook import best_neighbour, entries
from hubquant.quants.cpu.exact.search import extreme
from hubquant.quants.cpu.vector.block import clamp, half_bits, maximum, nearest, put_half
from hubquant.quants.cpu.vector.compile import inlined, primitive
from hubquant.quants.cpu.vector.frame import Array, by_block_twice, by_square, framed
from hubquant.quants.cpu.vector.simd import (
    LANES,
    Pointer,
    Vector,
    int_vectors,
    lanes,
    offset,
    put_byte,
    splat,
    splat_int,
    to_float,
    to_int,
    vectors,
    where,
)
from hubquant.quants.cpu.vector.sorting import sorted_copy
from hubquant.quants.formats import TYPES

_f = np.float32
_ZERO, _ONE, _HALF = _f(0), _f(1), _f(0.5)
_SHIFT = _f(0.125)
_LOWEST = np.finfo(np.float32).min
_S_D, _S_QS, _S_QH = (TYPES["IQ1_S"].offset(name) for name in ("d", "qs", "qh"))
_M_QS, _M_QH, _M_SCALES = (TYPES["IQ1_M"].offset(name) for name in ("qs", "qh", "scales"))


@primitive
def _levels_of_runs(
    n: int, x: Pointer, sorted_x: Pointer, index: Pointer, first: Vector, second: Vector, flip: Any, keys: Pointer
) -> None:
    """Keys of the groups of 8: level 0 for the ``first`` smallest weights, 1 up to the ``second``, 2 for the rest; the
    other way round where ``flip``."""
    borders, numbers, bounds = int_vectors(2), int_vectors(2), vectors(2)
    borders[0] = first
    borders[1] = second
    border, number, bound = lanes(borders), lanes(numbers), lanes(bounds)
    values, indices = lanes(sorted_x), lanes(index)
    for i in range(2 * LANES):
        at = border[i]
        if 0 <= at < n:
            bound[i] = values[at * LANES + i % LANES]
            number[i] = indices[at * LANES + i % LANES]
        else:
            bound[i] = _f(np.inf)
            number[i] = 0
    for g in range(n // 8):
        key = splat_int(0)
        for i in range(8):
            value = x[8 * g + i]
            level = splat_int(2)
            for b in (1, 0):
                below = (value < bounds[b]) | ((value == bounds[b]) & (numbers[b] > 8 * g + i))
                level = where(below, splat_int(b), level)
            key = key | where(flip, 2 - level, level) << (2 * i)
        keys[g] = key


@primitive
def _snap(x: Pointer, w: Pointer, key: Vector, scale: Vector, base: Vector, lookup: Array, lists: Array) -> Vector:
    """The key, or its best neighbour where it is not in the codebook; ``base`` is what level 0 stands for."""
    keys, lane_values = int_vectors(1), vectors(2)
    keys[0] = key
    lane_values[0] = scale
    lane_values[1] = base
    found, values, lane_x, lane_w = lanes(keys), lanes(lane_values), lanes(x), lanes(w)
    for lane in range(LANES):
        entry = lookup[found[lane]]
        if entry < 0:
            found[lane] = best_neighbour(
                lists,
                entry,
                8,
                2,
                offset(lane_x, lane),
                offset(lane_w, lane),
                values[lane],
                False,
                values[LANES + lane],
            )
    return keys[0]


@inlined
def _value(key: Vector, i: int, base: Vector) -> Vector:
    return to_float((key >> (2 * i)) & 3) + base


@primitive
def _base(shifted_up: Any) -> Vector:
    return where(shifted_up, splat(_SHIFT - _ONE), -_SHIFT - _ONE)


@primitive
def _three_bit_scale(scale: Vector, step: Vector) -> Vector:
    """2·code + 1 steps, as a whole float."""
    return where(step > _ZERO, clamp(nearest(_HALF * (_ONE / step * scale - _ONE)), _ZERO, _f(7)), _ZERO)


# ---- IQ1_S: 8 sub-blocks of 32, one shift each -----------------------------------------------------------------------


@primitive
def _runs_32(sorted_x: Pointer, sorted_w: Pointer, start: Vector) -> tuple[Vector, Vector, Vector, Any]:
    """The best scale, run borders, and whether the levels are shifted up.

    The first border is −1 where no weight counts.
    """
    sum_w, sum_x = vectors(33), vectors(33)
    sum_w[0] = splat(_ZERO)
    sum_x[0] = splat(_ZERO)
    for i in range(32):
        sum_w[i + 1] = sum_w[i] + sorted_w[i]
        sum_x[i + 1] = sum_x[i] + sorted_w[i] * sorted_x[i]
    scale = start
    best = splat(_LOWEST)
    first, second = splat_int(-1), splat_int(32)
    up = splat(_ONE)
    for i in range(33):
        for j in range(i, 33):
            for sign in range(2):
                shift = -_SHIFT if sign else _SHIFT
                low, middle, high = shift - _ONE, shift, shift + _ONE
                x0, x1, x2 = sum_x[i] - sum_x[0], sum_x[j] - sum_x[i], sum_x[32] - sum_x[j]
                w0, w1, w2 = sum_w[i] - sum_w[0], sum_w[j] - sum_w[i], sum_w[32] - sum_w[j]
                qx = x0 * low + x1 * middle + x2 * high
                qq = w0 * low * low + w1 * middle * middle + w2 * high * high
                better = (qq > _ZERO) & (qx * qx > best * qq)
                scale = where(better, qx / qq, scale)
                best = where(better, scale * qx, best)
                first = where(better, splat_int(i), first)
                second = where(better, splat_int(j), second)
                up = where(better, -_ONE if sign else _ONE, up)
    return scale, first, second, up > _ZERO


@primitive
def _block_s(x: Pointer, w: Pointer, lookup: Array, lists: Array, keys: Pointer) -> tuple[Vector, Any]:
    """Scale, shift and keys of a sub-block of 32."""
    sorted_x, sorted_w, index = vectors(32), vectors(32), int_vectors(32)
    _, magnitude = extreme(32, x)
    sorted_copy(32, x, w, sorted_x, sorted_w, index)
    scale, first, second, up = _runs_32(sorted_x, sorted_w, magnitude)
    flip = scale < _ZERO
    up = (up & ~flip) | (~up & flip)
    scale = where(flip, -scale, scale)
    _levels_of_runs(32, x, sorted_x, index, first, second, flip, keys)
    base = _base(up)
    moved = splat_int(0)
    for g in range(4):
        key = _snap(offset(x, 8 * g), offset(w, 8 * g), keys[g], scale, base, lookup, lists)
        moved = moved | (key ^ keys[g])
        keys[g] = key
    qx = splat(_ZERO)
    qq = splat(_ZERO)
    for g in range(4):
        for i in range(8):
            value = _value(keys[g], i, base)
            qx = qx + w[8 * g + i] * value * x[8 * g + i]
            qq = qq + w[8 * g + i] * value * value
    scale = where((moved != 0) & (qx > _ZERO) & (qq > _ZERO), qx / qq, scale)
    alive = (magnitude >= _f(1e-12)) & (first >= 0)
    for g in range(4):
        keys[g] = where(alive, keys[g], 0)  # entry 0
    return where(alive, scale, _ZERO), up | ~alive


@primitive
def put_s(block: Pointer, d: Vector, scales: Pointer, down: Pointer, indices: Pointer) -> None:
    """The bits of d; scales 0 … 7 and shifts (1 for −⅛) of the 8 sub-blocks; indices of the 32 groups."""
    put_half(block, _S_D, d)
    for j in range(8):
        high = (scales[j] | down[j] << 3) << 12
        for g in range(4):
            index = indices[4 * j + g]
            put_byte(block, _S_QS + 4 * j + g, index)
            high = high | (index >> 8) << (3 * g)
        put_byte(block, _S_QH + 2 * j, high)
        put_byte(block, _S_QH + 2 * j + 1, high >> 8)


@primitive
def _search_s(x: Pointer, w: Pointer, block: Pointer, lookup: Array, lists: Array) -> None:
    scale, codes, keys, down = vectors(8), int_vectors(8), int_vectors(32), int_vectors(8)
    largest = splat(_ZERO)
    for j in range(8):
        scale[j], up = _block_s(offset(x, 32 * j), offset(w, 32 * j), lookup, lists, offset(keys, 4 * j))
        down[j] = where(up, splat_int(0), 1)
        largest = maximum(largest, scale[j])
    step = largest / _f(15)
    for j in range(8):
        codes[j] = to_int(_three_bit_scale(scale[j], step))
        down[j] = where(step > _ZERO, down[j], 0)
    for g in range(32):
        keys[g] = entries(keys[g], lookup)
    put_s(block, half_bits(step * _f(1.125)), codes, down, keys)


# ---- IQ1_M: 16 sub-blocks of 16, one shift for each half -------------------------------------------------------------


@primitive
def _prefix_sums(sorted_x: Pointer, sorted_w: Pointer, index: Pointer, sum_x: Pointer, sum_w: Pointer) -> None:
    """Σ w·x and Σ w of the first ``i`` sorted weights: for the first half of the sub-block at element ``i``, for the
    second at ``17 + i``."""
    for half in range(2):
        at = 17 * half
        sum_x[at] = splat(_ZERO)
        sum_w[at] = splat(_ZERO)
        for i in range(16):
            member = (index[i] < 8) if half == 0 else (index[i] >= 8)
            sum_x[at + i + 1] = where(member, sum_x[at + i] + sorted_w[i] * sorted_x[i], sum_x[at + i])
            sum_w[at + i + 1] = where(member, sum_w[at + i] + sorted_w[i], sum_w[at + i])


@inlined
def _run_sums(sum_x: Pointer, sum_w: Pointer, i: int, j: int, shift: np.float32) -> tuple[Vector, Vector]:
    """Σ w·v·x and Σ w·v² of one half with runs 0 … i, i … j, j … 16 at the three levels, summed by parts: levels are 1
    apart, and the differences of their squares are exact."""
    high = shift + _ONE
    down, up = (shift - _ONE) * (shift - _ONE) - shift * shift, shift * shift - high * high
    qx = sum_x[16] * high - (sum_x[j] + sum_x[i])
    return qx, up * sum_w[j] + (down * sum_w[i] + sum_w[16] * high * high)


@primitive
def _runs_16(sum_x: Pointer, sum_w: Pointer, start: Vector) -> tuple[Vector, Vector, Vector, Vector]:
    """The best scale, run borders and pair of shifts: 2 if the first half's levels are shifted down, plus 1 if the
    second half's are. The first border is −1 where no weight counts."""
    qx, qq = vectors(4), vectors(4)
    scale = start
    best = splat(_LOWEST)
    first, second, shifts = splat_int(-1), splat_int(16), splat_int(0)
    for i in range(17):
        for j in range(i, 17):
            for half in range(2):
                half_x, half_w = offset(sum_x, 17 * half), offset(sum_w, 17 * half)
                qx[2 * half], qq[2 * half] = _run_sums(half_x, half_w, i, j, _SHIFT)
                qx[2 * half + 1], qq[2 * half + 1] = _run_sums(half_x, half_w, i, j, -_SHIFT)
            for pair in range(4):
                x = qx[pair // 2] + qx[2 + pair % 2]
                q = qq[pair // 2] + qq[2 + pair % 2]
                better = (q > _ZERO) & (x * x > best * q)
                scale = where(better, x / q, scale)
                best = where(better, scale * x, best)
                first = where(better, splat_int(i), first)
                second = where(better, splat_int(j), second)
                shifts = where(better, splat_int(pair), shifts)
    return scale, first, second, shifts


@primitive
def _block_m(x: Pointer, w: Pointer, lookup: Array, lists: Array, keys: Pointer) -> tuple[Vector, Vector]:
    """Scale, pair of shifts and keys of a sub-block of 16."""
    sorted_x, sorted_w, index = vectors(16), vectors(16), int_vectors(16)
    sum_x, sum_w = vectors(34), vectors(34)
    _, magnitude = extreme(16, x)
    sorted_copy(16, x, w, sorted_x, sorted_w, index)
    _prefix_sums(sorted_x, sorted_w, index, sum_x, sum_w)
    scale, first, second, shifts = _runs_16(sum_x, sum_w, magnitude)
    flip = scale < _ZERO
    shifts = where(flip, 3 - shifts, shifts)
    scale = where(flip, -scale, scale)
    _levels_of_runs(16, x, sorted_x, index, first, second, flip, keys)
    moved = splat_int(0)
    qx = splat(_ZERO)
    qq = splat(_ZERO)
    for g in range(2):
        base = _base((shifts & (2 - g)) == 0)
        key = _snap(offset(x, 8 * g), offset(w, 8 * g), keys[g], scale, base, lookup, lists)
        moved = moved | (key ^ keys[g])
        keys[g] = key
        for i in range(8):
            value = _value(key, i, base)
            qx = qx + w[8 * g + i] * value * x[8 * g + i]
            qq = qq + w[8 * g + i] * value * value
    scale = where((moved != 0) & (qx > _ZERO) & (qq > _ZERO), qx / qq, scale)
    alive = (magnitude >= _f(1e-7)) & (first >= 0)
    for g in range(2):
        keys[g] = where(alive, keys[g], 0)  # entry 0
    return where(alive, scale, _ZERO), where(alive, shifts, 0)


@primitive
def _refit_step(x: Pointer, w: Pointer, keys: Pointer, shifts: Pointer, codes: Pointer, step: Vector) -> Vector:
    """The super-block's scale by least squares over all weights, with the sub-blocks' scales rounded."""
    qx = splat(_ZERO)
    qq = splat(_ZERO)
    for j in range(16):
        multiple = _f(2) * codes[j] + _ONE
        for g in range(2):
            base = _base((shifts[j] & (2 - g)) == 0)
            for i in range(8):
                at = 16 * j + 8 * g + i
                value = _value(keys[2 * j + g], i, base) * multiple
                qx = qx + w[at] * value * x[at]
                qq = qq + w[at] * value * value
    return where(qq > _ZERO, qx / qq, step)


@primitive
def put_m(block: Pointer, d: Vector, scales: Pointer, down: Pointer, indices: Pointer) -> None:
    """The bits of d, four to each word of scales 0 … 7 of the 16 sub-blocks; shifts (1 for −⅛) and indices of the 32
    groups.
    """
    for j in range(4):
        word = ((d >> (4 * j)) & 15) << 12
        for k in range(4):
            word = word | scales[4 * j + k] << (3 * k)
        put_byte(block, _M_SCALES + 2 * j, word)
        put_byte(block, _M_SCALES + 2 * j + 1, word >> 8)
    for j in range(16):
        high = splat_int(0)
        for g in range(2):
            index = indices[2 * j + g]
            put_byte(block, _M_QS + 2 * j + g, index)
            high = high | (index >> 8 | down[2 * j + g] << 3) << (4 * g)
        put_byte(block, _M_QH + j, high)


@primitive
def _search_m(x: Pointer, w: Pointer, block: Pointer, lookup: Array, lists: Array) -> None:
    scale, codes, keys, shifts = vectors(16), vectors(16), int_vectors(32), int_vectors(16)
    stored, down = int_vectors(16), int_vectors(32)
    largest = splat(_ZERO)
    for j in range(16):
        scale[j], shifts[j] = _block_m(offset(x, 16 * j), offset(w, 16 * j), lookup, lists, offset(keys, 2 * j))
        largest = maximum(largest, scale[j])
    step = largest / _f(15)
    alive = step > _ZERO
    for j in range(16):
        codes[j] = _three_bit_scale(scale[j], step)
        stored[j] = to_int(codes[j])
    d = half_bits(where(alive, _refit_step(x, w, keys, shifts, codes, step) * _f(1.1125), _ZERO))
    for j in range(16):
        for g in range(2):
            keys[2 * j + g] = entries(keys[2 * j + g], lookup)
            down[2 * j + g] = where(alive, (shifts[j] >> (1 - g)) & 1, 0)
    put_m(block, d, stored, down, keys)


iq1_s_weighted = framed("iq1_s_weighted", "IQ1_S", _search_s, by_block_twice)
iq1_m = framed("iq1_m", "IQ1_M", _search_m, by_square)
iq1_m_weighted = framed("iq1_m_weighted", "IQ1_M", _search_m, by_block_twice)

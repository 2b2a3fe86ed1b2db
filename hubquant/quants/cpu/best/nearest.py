"""The nearest entry of a codebook by exhaustive search, for 16 groups at a time.

An entry is cut into two halves, and its error is the sum of theirs. The errors of all second halves are tabled; entries
with the same first half lie together, so that an entry costs one minimum and a first half two sums. Errors are whole
numbers with the levels in their low bits: the smallest carries the key of its entry along.
"""

# ruff: noqa: ARG001 (numba calls the typing and emit functions with its own arguments)

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from hubquant.quants.cpu.vector.block import reciprocal
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.grids import entry_levels
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    Vector,
    absolute,
    float_bits,
    i32x16,
    int_vectors,
    offset,
    splat,
    to_float,
    where,
)

_f = np.float32
_ZERO, _ONE, _TWO = _f(0), _f(1), _f(2)
_MAGIC = _f(12582912.0)  # 1.5 · 2²³: adding it leaves the rounded value in the low mantissa bits
_MARGIN = _f(0.99)


class Shape(NamedTuple):
    """Groups of ``dim`` weights; levels 0 … ``levels`` − 2 stand for 1 + ``step`` · level, the last for ``top``."""

    dim: int
    levels: int
    step: np.float32
    top: np.float32


IQ2, IQ3_XXS, IQ3_S = Shape(8, 3, _f(2.125), _f(5.375)), Shape(4, 8, _f(2), _f(15.5)), Shape(4, 8, _f(2), _f(15))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _least_sum(typingctx: Any, name: Any, left: Any, right: Any, second: Any) -> Any:
    """The smallest ``left[i] + right[j] + second[k]`` of the entries of a codebook, without a loop.

    Its first half is place ``n · i + j`` and its second half place ``k`` of all halves, ``n`` being the length of
    ``left`` and of ``right``.
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        dim = 4 if name.literal_value.startswith("IQ3") else 8
        levels = entry_levels(name.literal_value, dim)
        count = 8 if dim == 4 else 3
        places = count ** np.arange(dim // 2)[::-1]
        n = count ** (dim // 4)

        def smaller(a: Any, b: Any) -> Any:
            return builder.select(builder.icmp_signed("<", a, b), a, b)

        def item(table: int, i: int) -> Any:
            return builder.load(builder.gep(args[table], [ir.Constant(ir.IntType(32), i)]), align=64)

        pairs = sorted(zip(levels[:, : dim // 2] @ places, levels[:, dim // 2 :] @ places, strict=True))
        best = None
        for first, entries in groupby(pairs, key=lambda pair: pair[0]):
            least = None
            for _, place in entries:
                error = item(3, int(place))
                least = error if least is None else smaller(error, least)
            total = builder.add(least, builder.add(item(1, int(first) // n), item(2, int(first) % n)))
            best = total if best is None else smaller(total, best)
        return best

    return i32x16(name, left, right, second), emit


@primitive
def _level_errors(room: int, place: int, shape: Shape, square: Vector, product: Vector, errors: Pointer) -> None:
    """``square``·v² − ``product``·v for each level's value v, ``room`` bits up, with the level at bit ``place``."""
    _, levels, step, top = shape
    for level in range(levels):
        value = _ONE + step * _f(level) if level + 1 < levels else top
        error = (square * value - product) * value
        errors[level] = (float_bits(error + _MAGIC) << room) | (level << place)


@primitive
def _sums(n: int, a: Pointer, b: Pointer, out: Pointer) -> None:
    """``out[n · i + j] = a[i] + b[j]``"""
    for i in range(n):
        for j in range(n):
            out[n * i + j] = a[i] + b[j]


@primitive
def nearest_entry(name: str, shape: Shape, x: Pointer, w: Pointer, scale: Vector) -> Vector:
    """The key of the entry with the least Σ w·(scale·v − x)² over its values v."""
    dim, levels, _, top = shape
    bits = 2 if dim == 8 else 3
    room = dim * bits
    largest = scale * top
    bound = splat(_ZERO)
    for i in range(dim):
        bound = bound + w[i] * (largest * (largest + _TWO * absolute(x[i])))
    unit = _MARGIN * _f(1 << (31 - room)) * reciprocal(bound)
    errors, pairs, second = int_vectors(32), int_vectors(36), int_vectors(81)
    for i in range(dim):
        wide = w[i] * scale * unit
        _level_errors(room, bits * i, shape, wide * scale, _TWO * wide * x[i], offset(errors, levels * i))
    if dim == 4:
        _sums(8, offset(errors, 16), offset(errors, 24), second)
        key = _least_sum(name, errors, offset(errors, 8), second)
    else:
        for pair in range(4):
            _sums(3, offset(errors, 6 * pair), offset(errors, 6 * pair + 3), offset(pairs, 9 * pair))
        _sums(9, offset(pairs, 18), offset(pairs, 27), second)
        key = _least_sum(name, pairs, offset(pairs, 9), second)
    return key & ((1 << room) - 1)


@primitive
def value_of(key: Vector, i: int, shape: Shape) -> Vector:
    """What level ``i`` of a key stands for."""
    dim, levels, step, top = shape
    bits = 2 if dim == 8 else 3
    level = (key >> (bits * i)) & ((1 << bits) - 1)
    return where(level == levels - 1, splat(top), _ONE + step * to_float(level))


@primitive
def snap(
    name: str, shape: Shape, groups: int, x: Pointer, w: Pointer, scale: Vector, keys: Pointer
) -> tuple[Vector, Vector]:
    """The nearest entries of a sub-block's groups into ``keys``; ``(Σ w·v·x, Σ w·v²)``."""
    dim = shape.dim
    vx = splat(_ZERO)
    vv = splat(_ZERO)
    for g in range(groups):
        sub, sub_w = offset(x, dim * g), offset(w, dim * g)
        key = nearest_entry(name, shape, sub, sub_w, scale)
        keys[g] = key
        for i in range(dim):
            value = value_of(key, i, shape)
            weighted = sub_w[i] * value
            vx = vx + weighted * sub[i]
            vv = vv + weighted * value
    return vx, vv

"""Reading blocks one after the other: lane ``k`` of every vector belongs to weight ``k`` of 16 neighbours."""

# ruff: noqa: ARG001 (numba calls the typing functions with its own arguments)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hubquant.quants.cpu.vector.block import from_half
from hubquant.quants.cpu.vector.compile import make_kernel, primitive
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.simd import (
    LANES,
    Pointer,
    Vector,
    f32x16,
    from_bits,
    i32x16,
    lane_numbers,
    offset,
    pointer,
    splat_int,
)
from hubquant.quants.formats import lookup

Array = np.ndarray[Any, Any]

_operation: Callable[[Callable[..., Any]], Any] = intrinsic
_I8, _I32 = ir.IntType(8), ir.IntType(32)
_BYTES = ir.VectorType(_I8, LANES)


def decoded(name: str, type: str, values: Callable[..., None]) -> Kernel:
    """``kernel(data, out, *tables)`` from uint8 [blocks, block_bytes] to float32 [blocks, block_size].

    ``values(block, out, *tables)`` is a primitive for one block, ``name`` the variable that holds the kernel in its
    module.
    """
    size, nbytes = lookup(type).block_size, lookup(type).block_bytes

    def run(data: Array, out: Array, tables: tuple[Array, ...]) -> None:
        for block in range(data.shape[0]):
            values(offset(pointer(data), block * nbytes), offset(pointer(out), block * size), *tables)

    def grouped(arrays: tuple[types.Type, ...]) -> tuple[types.Type, ...]:
        return arrays[0], arrays[1], types.Tuple(arrays[2:])

    return make_kernel(run, values.__module__, name, grouped)


@_operation
def load_bytes(typingctx: Any, source: Any, index: Any) -> Any:
    """Bytes ``index … index + 15`` as i32x16."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.intp)])
        return builder.zext(builder.load(builder.bitcast(address, _BYTES.as_pointer()), align=1), i32x16.llvm)

    return i32x16(source, types.unliteral(index)), emit


@_operation
def load_entries(typingctx: Any, table: Any, indices: Any) -> Any:
    """The bytes of some rows of a uint8 ``table``, as many as make up 16 of them, as i32x16. ``indices`` is a tuple."""
    count = len(indices)
    entry = ir.IntType(8 * (LANES // count))

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows = builder.bitcast(context.make_array(sig.args[0])(context, builder, args[0]).data, entry.as_pointer())
        packed: Any = ir.Constant(ir.VectorType(entry, count), ir.Undefined)
        for k in range(count):
            index = context.cast(builder, builder.extract_value(args[1], k), sig.args[1][k], types.intp)
            packed = builder.insert_element(packed, builder.load(builder.gep(rows, [index]), align=1), _I32(k))
        return builder.zext(builder.bitcast(packed, _BYTES), i32x16.llvm)

    return i32x16(table, indices), emit


@_operation
def look_up(typingctx: Any, table: Any, indices: Any) -> Any:
    """``table[indices]`` of a float32 array and an i32x16."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base = context.make_array(sig.args[0])(context, builder, args[0]).data
        found: Any = ir.Constant(f32x16.llvm, ir.Undefined)
        for k in range(LANES):
            index = builder.zext(builder.extract_element(args[1], _I32(k)), ir.IntType(64))
            found = builder.insert_element(found, builder.load(builder.gep(base, [index]), align=4), _I32(k))
        return found

    return f32x16(table, indices), emit


@primitive
def word16(block: Pointer, at: int) -> int:
    """Two bytes, little endian."""
    return int(block[at]) | int(block[at + 1]) << 8


@primitive
def word32(block: Pointer, at: int) -> int:
    """Four bytes, little endian."""
    return word16(block, at) | word16(block, at + 2) << 16


@primitive
def half(block: Pointer, at: int) -> Vector:
    """A half-precision number in every lane."""
    return from_half(splat_int(word16(block, at)))


@primitive
def single(block: Pointer, at: int) -> Vector:
    """A single-precision number in every lane."""
    return from_bits(splat_int(word32(block, at)))


@primitive
def nibbles(block: Pointer, at: int, upper: int) -> Vector:
    """The lower four bits of 16 bytes, or the upper ones for ``upper`` = 1."""
    return (load_bytes(block, at) >> 4 * upper) & 15


@primitive
def bits(word: int) -> Vector:
    """Bit ``k`` of a word in lane ``k``, 0 or 1."""
    return (splat_int(word) >> lane_numbers()) & 1


@primitive
def signed_bytes(block: Pointer, at: int) -> Vector:
    """16 numbers in −128 … 127."""
    return (load_bytes(block, at) ^ 128) - 128

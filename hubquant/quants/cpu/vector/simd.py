"""``f32x16``: a SIMD value type for numba, so that kernels read like scalar code.

A kernel works on 16 blocks at once and lane ``k`` belongs to block ``k``: sums run in the order of the scalar
algorithm, which byte identity with llama.cpp needs, and no horizontal operation is ever necessary. LLVM splits the
vectors into what the machine has (AVX-512, AVX2, SSE2, NEON).

Three types exist inside kernels only: ``f32x16``, ``i32x16`` and ``mask16`` (the result of a comparison). Python
scalars are broadcast. Arithmetic is IEEE single precision, never contracted to fused multiply-add.
"""

# ruff: noqa: ARG001 (numba calls the typing and emit functions with its own arguments)

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

from hubquant.quants.formats import LANES as LANES

# What a type checker sees in kernels: numba does the checking.
Vector: TypeAlias = Any
Pointer: TypeAlias = Any

# a typing function (typingctx, *types) -> (signature, emit); emit(context, builder, signature, args) writes LLVM IR
_operation: Callable[[Callable[..., Any]], Any] = intrinsic
_I8, _I32 = ir.IntType(8), ir.IntType(32)


class VectorType(types.Type):  # type: ignore[misc]
    """``LANES`` lanes of one LLVM type."""

    def __init__(self, name: str, lane: ir.Type, scalar: types.Type) -> None:
        super().__init__(name)
        self.lane = lane
        self.scalar = scalar
        self.llvm = ir.VectorType(lane, LANES)


f32x16 = VectorType("f32x16", ir.FloatType(), types.float32)
i32x16 = VectorType("i32x16", _I32, types.int32)
mask16 = VectorType("mask16", ir.IntType(1), types.boolean)
_FLOATS, _INTS, _BYTES = f32x16.llvm, i32x16.llvm, ir.VectorType(_I8, LANES)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: VectorType) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


def _constant(value: int, vector: ir.VectorType = _INTS) -> ir.Constant:
    return ir.Constant(vector, [value] * LANES)


def _broadcast(context: Any, builder: Any, value: Any, source: types.Type, target: VectorType) -> Any:
    if isinstance(source, VectorType):
        return value
    scalar = context.cast(builder, value, source, target.scalar)
    undefined = ir.Constant(target.llvm, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, _I32(0)), undefined, _constant(0))


def _define(op: Callable[..., Any], operand: VectorType, result: VectorType, emit: Callable[..., Any]) -> None:
    """Teach numba ``op`` on vectors of type ``operand``, or one such vector and a number."""
    number = (types.Number,) if operand is not mask16 else ()

    def accepts(args: tuple[Any, ...]) -> bool:
        return operand in args and all(a == operand or isinstance(a, number) for a in args)

    class Template(AbstractTemplate):  # type: ignore[misc]
        key = op

        def generic(self, args: tuple[Any, ...], kws: Any) -> Any:
            return signature(result, *map(types.unliteral, args)) if accepts(args) and not kws else None

    infer_global(op)(Template)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vectors = (_broadcast(context, builder, a, t, operand) for a, t in zip(args, sig.args, strict=True))
        return emit(builder, *vectors)

    if op in (operator.neg, operator.invert):
        lower_builtin(op, operand)(lower)
        return
    for left, right in ((operand, operand), (operand, types.Number), (types.Number, operand)):
        lower_builtin(op, left, right)(lower)


_Operators: TypeAlias = tuple[tuple[Callable[..., Any], Callable[..., Any]], ...]
_FLOAT_OPERATORS: _Operators = (
    (operator.add, lambda b, x, y: b.fadd(x, y)),
    (operator.sub, lambda b, x, y: b.fsub(x, y)),
    (operator.mul, lambda b, x, y: b.fmul(x, y)),
    (operator.truediv, lambda b, x, y: b.fdiv(x, y)),
    (operator.neg, lambda b, x: b.fneg(x)),
)
_INT_OPERATORS: _Operators = (
    (operator.add, lambda b, x, y: b.add(x, y)),
    (operator.sub, lambda b, x, y: b.sub(x, y)),
    (operator.and_, lambda b, x, y: b.and_(x, y)),
    (operator.or_, lambda b, x, y: b.or_(x, y)),
    (operator.xor, lambda b, x, y: b.xor(x, y)),
    (operator.lshift, lambda b, x, y: b.shl(x, y)),
    (operator.rshift, lambda b, x, y: b.lshr(x, y)),  # logical
)
_MASK_OPERATORS: _Operators = (
    (operator.and_, lambda b, x, y: b.and_(x, y)),
    (operator.or_, lambda b, x, y: b.or_(x, y)),
    (operator.invert, lambda b, x: b.not_(x)),
)
for _kind, _operators in ((f32x16, _FLOAT_OPERATORS), (i32x16, _INT_OPERATORS), (mask16, _MASK_OPERATORS)):
    for _op, _emit in _operators:
        _define(_op, _kind, _kind, _emit)


def _define_comparison(op: Callable[..., Any], symbol: str) -> None:
    ordered = (
        "fcmp_unordered" if symbol == "!=" else "fcmp_ordered"
    )  # x != NaN holds, every other comparison with NaN does not
    _define(op, f32x16, mask16, lambda b, x, y: getattr(b, ordered)(symbol, x, y))
    _define(op, i32x16, mask16, lambda b, x, y: b.icmp_signed(symbol, x, y))


_define_comparison(operator.lt, "<")
_define_comparison(operator.gt, ">")
_define_comparison(operator.le, "<=")
_define_comparison(operator.ge, ">=")
_define_comparison(operator.eq, "==")
_define_comparison(operator.ne, "!=")


@_operation
def where(typingctx: Any, mask: Any, yes: Any, no: Any) -> Any:
    """``yes`` in the lanes where ``mask`` holds, ``no`` elsewhere."""
    kind = yes if isinstance(yes, VectorType) else no

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (_broadcast(context, builder, args[i], sig.args[i], kind) for i in (1, 2))
        return builder.select(args[0], a, b)

    return kind(mask, types.unliteral(yes), types.unliteral(no)), emit


def _splat(kind: VectorType) -> Any:
    def typing(typingctx: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _broadcast(context, builder, args[0], sig.args[0], kind)

        return kind(types.unliteral(value)), emit

    return _operation(typing)


splat = _splat(f32x16)  # a number in every lane
splat_int = _splat(i32x16)


def _unary(name: str) -> Any:
    """An LLVM intrinsic of one float vector."""

    def typing(typingctx: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_FLOATS, [_FLOATS]), name)
            return builder.call(function, args)

        return f32x16(value), emit

    return _operation(typing)


@_operation
def multiply_int(typingctx: Any, a: Any, b: Any) -> Any:
    """The low 32 bits of the product of an i32x16 and a number."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.mul(args[0], _broadcast(context, builder, args[1], sig.args[1], i32x16))

    return i32x16(a, types.unliteral(b)), emit


sqrt = _unary("llvm.sqrt.v16f32")
absolute = _unary("llvm.fabs.v16f32")
truncate = _unary("llvm.trunc.v16f32")


def _conversion(source: VectorType, target: VectorType, method: str) -> Any:
    def typing(typingctx: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return getattr(builder, method)(args[0], target.llvm)

        return (target(source), emit) if value == source else None

    return _operation(typing)


to_int = _conversion(f32x16, i32x16, "fptosi")  # the values must fit
to_float = _conversion(i32x16, f32x16, "sitofp")
float_bits = _conversion(f32x16, i32x16, "bitcast")
from_bits = _conversion(i32x16, f32x16, "bitcast")


@_operation
def any_lane(typingctx: Any, mask: Any) -> Any:
    """Whether the mask holds in at least one lane."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.icmp_unsigned("!=", builder.bitcast(args[0], ir.IntType(LANES)), ir.IntType(LANES)(0))

    return types.boolean(mask), emit


def _stack_array(element: types.Type, llvm: ir.Type) -> Any:
    def typing(typingctx: Any, count: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            with builder.goto_entry_block():
                memory = builder.alloca(ir.ArrayType(llvm, count.literal_value))
                memory.align = 64
            return builder.bitcast(memory, context.get_data_type(element).as_pointer())

        return types.CPointer(element)(count), emit

    return intrinsic(prefer_literal=True)(typing)


vectors = _stack_array(f32x16, _FLOATS)  # vectors(n): a stack array of n f32x16
int_vectors = _stack_array(i32x16, _INTS)
byte_vectors = _stack_array(types.uint8, _BYTES)  # byte_vectors(n): a stack array of n times 16 bytes


@_operation
def lanes(typingctx: Any, vector: Any) -> Any:
    """A pointer to vectors as a pointer to their single lanes: lane ``k`` of vector ``i`` is element ``16 · i + k``."""
    scalar = vector.dtype.scalar

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_data_type(scalar).as_pointer())

    return types.CPointer(scalar)(vector), emit


@_operation
def lane_numbers(typingctx: Any) -> Any:
    """0, 1, … 15 as i32x16."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(_INTS, list(range(LANES)))

    return i32x16(), emit


@_operation
def least(typingctx: Any, value: Any) -> Any:
    """The smallest lane of an i32x16, signed."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(_I32, [_INTS])
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.smin.v16i32"), args
        )

    return types.int32(value), emit


@_operation
def offset(typingctx: Any, pointer: Any, count: Any) -> Any:
    """``pointer + count`` elements."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.intp)])

    return pointer(pointer, types.unliteral(count)), emit


@_operation
def pointer(typingctx: Any, array: Any) -> Any:
    """The address of an array's first element."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), emit


@_operation
def load(typingctx: Any, source: Any, index: Any) -> Any:
    """16 neighbours ``source[index : index + 16]`` of a pointer to float32 or int32."""
    kind = f32x16 if source.dtype == types.float32 else i32x16

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.intp)])
        return builder.load(builder.bitcast(address, kind.llvm.as_pointer()), align=4)

    return kind(source, types.unliteral(index)), emit


@_operation
def store(typingctx: Any, target: Any, index: Any, value: Any) -> Any:
    """``target[index : index + 16] = value``"""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.intp)])
        builder.store(args[2], builder.bitcast(address, _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(target, types.unliteral(index), value), emit


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """A 16 × 16 transpose of vectors: a butterfly of shuffles."""
    half = LANES // 2
    while half:
        done: list[Any] = [None] * LANES
        low = ir.Constant(ir.VectorType(_I32, LANES), [j if not j & half else (j ^ half) + LANES for j in range(LANES)])
        high = ir.Constant(ir.VectorType(_I32, LANES), [j ^ half if not j & half else j + LANES for j in range(LANES)])
        for i in range(LANES):
            if not i & half:
                done[i] = builder.shuffle_vector(rows[i], rows[i | half], low)
                done[i | half] = builder.shuffle_vector(rows[i], rows[i | half], high)
        rows, half = done, half // 2
    return rows


def _strided(builder: Any, base: Any, stride: Any, vector: ir.VectorType) -> list[Any]:
    """Addresses of 16 vectors ``stride`` elements apart."""
    return [
        builder.bitcast(builder.gep(base, [builder.mul(stride, ir.Constant(stride.type, k))]), vector.as_pointer())
        for k in range(LANES)
    ]


@_operation
def load_lanes(typingctx: Any, target: Any, source: Any, stride: Any) -> Any:
    """``target[i]`` lane ``k`` = ``source[k * stride + i]`` for ``i < 16``: 16 floats of each block, block ``k`` into
    lane ``k``.
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        step = context.cast(builder, args[2], sig.args[2], types.intp)
        rows = [builder.load(address, align=4) for address in _strided(builder, args[1], step, _FLOATS)]
        for i, vector in enumerate(_transpose(builder, rows)):
            builder.store(vector, builder.gep(args[0], [_I32(i)]), align=64)
        return context.get_dummy_value()

    return types.void(target, source, types.unliteral(stride)), emit


@_operation
def put_byte(typingctx: Any, target: Any, index: Any, value: Any) -> Any:
    """Byte ``index`` of each block becomes the low 8 bits of ``value`` (i32x16); ``target`` comes from
    :func:`byte_vectors`.
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.bitcast(args[0], _BYTES.as_pointer())
        address = builder.gep(place, [context.cast(builder, args[1], sig.args[1], types.intp)])
        builder.store(builder.trunc(args[2], _BYTES), address, align=16)
        return context.get_dummy_value()

    return types.void(target, types.unliteral(index), value), emit


@_operation
def store_lanes(typingctx: Any, target: Any, stride: Any, source: Any, first: Any) -> Any:
    """``target[k * stride + first + i]`` = lane ``k`` of byte vector ``first + i`` for ``i < 16``."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        step, start = (context.cast(builder, args[i], sig.args[i], types.intp) for i in (1, 3))
        place = builder.bitcast(args[2], _BYTES.as_pointer())
        columns = [
            builder.load(builder.gep(place, [builder.add(start, ir.Constant(start.type, i))]), align=16)
            for i in range(LANES)
        ]
        base = builder.gep(args[0], [start])
        for row, address in zip(_transpose(builder, columns), _strided(builder, base, step, _BYTES), strict=True):
            builder.store(row, address, align=1)
        return context.get_dummy_value()

    return types.void(target, types.unliteral(stride), source, types.unliteral(first)), emit

"""Typed GGUF metadata values. ``Metadata`` keeps the order in which keys are written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gguf import GGUFValueType

Scalar = int | float | bool | str


@dataclass(frozen=True)
class KV:
    """One value with its GGUF type; ``item`` is the element type of an array."""

    value: Scalar | tuple[Scalar, ...]
    type: GGUFValueType
    item: GGUFValueType | None = None


Metadata = dict[str, KV]


def u32(value: int) -> KV:
    return KV(int(value), GGUFValueType.UINT32)


def u16(value: int) -> KV:
    return KV(int(value), GGUFValueType.UINT16)


def i32(value: int) -> KV:
    return KV(int(value), GGUFValueType.INT32)


def f32(value: float) -> KV:
    return KV(float(value), GGUFValueType.FLOAT32)


def boolean(value: bool) -> KV:
    return KV(bool(value), GGUFValueType.BOOL)


def booleans(values: Iterable[bool]) -> KV:
    return KV(tuple(bool(v) for v in values), GGUFValueType.ARRAY, GGUFValueType.BOOL)


def string(value: str) -> KV:
    return KV(str(value), GGUFValueType.STRING)


def strings(values: Iterable[str]) -> KV:
    return KV(tuple(values), GGUFValueType.ARRAY, GGUFValueType.STRING)


def i32s(values: Iterable[int]) -> KV:
    return KV(tuple(int(v) for v in values), GGUFValueType.ARRAY, GGUFValueType.INT32)


def f32s(values: Iterable[float]) -> KV:
    return KV(tuple(float(v) for v in values), GGUFValueType.ARRAY, GGUFValueType.FLOAT32)


def u8s(values: bytes) -> KV:
    return KV(tuple(values), GGUFValueType.ARRAY, GGUFValueType.UINT8)

"""Which questions are asked of many: those of llama-perplexity, whose seed is 1.

It draws from C++'s ``std::mt19937``, which is numpy's legacy generator, in two ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeVar

import numpy as np

Item = TypeVar("Item")
Drawing = Literal["uniform", "scaled"]
_BITS = 32


def select(items: Sequence[Item], n: int, seed: int, drawing: Drawing) -> list[Item]:
    """``n`` of ``items``, or all of them in their order where there are no more. ``uniform`` is how HellaSwag's are
    drawn, ``scaled`` the others'."""
    if n >= len(items):
        return list(items)
    numbers, left = _mt19937(seed), list(items)
    draw = {"uniform": _draw_uniform, "scaled": _draw_scaled}[drawing]
    return [draw(left, numbers) for _ in range(n)]


def _mt19937(seed: int) -> Iterator[int]:
    generator = np.random.RandomState(seed)
    while True:
        yield from generator.randint(0, 1 << _BITS, size=256, dtype=np.uint32).tolist()


def _draw_uniform(left: list[Item], numbers: Iterator[int]) -> Item:
    """libstdc++'s ``std::uniform_int_distribution`` (Lemire's method); the others keep their order."""
    n = len(left)
    product = next(numbers) * n
    while product % (1 << _BITS) < ((1 << _BITS) - n) % n:
        product = next(numbers) * n
    return left.pop(product >> _BITS)


def _draw_scaled(left: list[Item], numbers: Iterator[int]) -> Item:
    """In float32; the last one takes the place of the drawn one."""
    scale = np.float32(1) / (np.float32(1) + np.float32((1 << _BITS) - 1))
    at = min(int(scale * np.float32(next(numbers)) * np.float32(len(left))), len(left) - 1)
    left[at], left[-1] = left[-1], left[at]
    return left.pop()

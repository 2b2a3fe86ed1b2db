"""One kernel for each hot primitive, where a compiler for the device is at hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result", Tensor, tuple[Tensor, ...])

TEMPORARY = 1 << 26  # bytes of one temporary of a primitive that runs operation by operation


def fused(floats: Callable[..., int]) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Compile a primitive for CUDA tensors; its tensor arguments and results have the same blocks in dimension 0.

    Elsewhere, and where compilation fails, it runs operation by operation, over so many blocks at a time that a
    temporary of ``floats(*arguments)`` numbers per block stays below :data:`TEMPORARY`.
    """

    def decorate(primitive: Callable[..., Result]) -> Callable[..., Result]:
        @cache
        def compiled() -> Callable[..., Result]:
            return torch.compile(primitive)

        usable = True

        @wraps(primitive)
        def run(*arguments: Any) -> Result:
            nonlocal usable
            if usable and arguments[0].is_cuda:
                try:
                    return _compiled(compiled(), arguments)
                except torch.cuda.OutOfMemoryError:
                    raise
                except Exception as error:  # what compilers raise has no common type
                    usable = False
                    reason = f"{primitive.__name__} runs unfused: {type(error).__name__}"
                    warnings.warn(reason, RuntimeWarning, stacklevel=2)
            return _piecewise(primitive, arguments, max(1, TEMPORARY // 4 // floats(*arguments)))

        return run

    return decorate


def _compiled(primitive: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    """One compilation serves any number of blocks, and each type its own."""
    import torch._dynamo

    for argument in arguments:
        if isinstance(argument, Tensor) and argument.shape[0] > 1:
            torch._dynamo.maybe_mark_dynamic(argument, 0)
    with torch._dynamo.config.patch(recompile_limit=64):
        return primitive(*arguments)


def _piecewise(primitive: Callable[..., Result], arguments: tuple[Any, ...], step: int) -> Result:
    blocks = arguments[0].shape[0]
    if blocks <= step:
        return primitive(*arguments)
    pieces = [
        primitive(*(a[i : i + step] if isinstance(a, Tensor) else a for a in arguments)) for i in range(0, blocks, step)
    ]
    if isinstance(pieces[0], Tensor):
        return torch.cat(pieces)
    return tuple(torch.cat(part) for part in zip(*pieces, strict=True))


def per_block(x: Tensor, *_others: Any) -> int:
    """Temporaries as large as the first argument."""
    return x[0].numel()

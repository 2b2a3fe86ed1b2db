"""Weights that stay in memory, or in their mapped file, as they are stored, and are float32 wherever they are used.

A float16 or bfloat16 is a float32 too: what is computed is the same as with weights in float32. What is saved is half
of their memory and the time to convert them; what it costs is to widen each matrix once for every batch of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch.utils._pytree import tree_any, tree_map_only

HALVES = (torch.bfloat16, torch.float16)

_aten = torch.ops.aten
_MOVES = frozenset(
    {
        _aten.alias.default,
        _aten.cat.default,
        _aten.chunk.default,
        _aten.clone.default,
        _aten.contiguous.default,
        _aten.detach.default,
        _aten.expand.default,
        _aten.flatten.using_ints,
        _aten.flip.default,
        _aten.narrow.default,
        _aten.numpy_T.default,
        _aten.permute.default,
        _aten.reshape.default,
        _aten.select.int,
        _aten.slice.Tensor,
        _aten.split.Tensor,
        _aten.split.sizes,
        _aten.split_with_sizes.default,
        _aten.squeeze.default,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.stack.default,
        _aten.t.default,
        _aten.transpose.int,
        _aten.unbind.int,
        _aten.unflatten.int,
        _aten.unsqueeze.default,
        _aten.view.default,
        _aten._unsafe_view.default,
    }
)
"""What only moves numbers, all of them weights: the result may be widened later as well."""
_PICKS = frozenset({_aten.embedding.default, _aten.index.Tensor, _aten.index_select.default})
"""What takes some of the numbers, which are widened."""
_FACTORS: Mapping[Any, Callable[..., tuple[Any, Any, Any]]] = {
    _aten.mm.default: lambda x, weight: (x, weight, None),
    _aten.addmm.default: lambda bias, x, weight: (x, weight, bias),
    _aten.linear.default: lambda x, weight, bias=None: (x, weight.t(), bias),
}
"""Of operations that multiply by a matrix."""
TILE = 1 << 22
"""So many numbers of a matrix are widened at a time, 16 MB. What is multiplied in smaller parts is multiplied more
slowly, as each part begins with putting the rows in order anew."""


class Widened(torch.Tensor):
    """A float32 tensor whose numbers are ``stored`` in half precision, in a tensor of the same shape.

    It can stand wherever a tensor is read. An operation that is not known here is given float32 numbers for as long as
    it takes, and one that would write to it raises ``RuntimeError``.
    """

    stored: torch.Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, stored: torch.Tensor) -> Self:
        with torch.inference_mode(False):  # where torch takes views of weights that are none of its inference tensors
            made: Self = torch.Tensor._make_wrapper_subclass(
                cls,
                stored.shape,
                strides=stored.stride(),
                storage_offset=stored.storage_offset(),
                dtype=torch.float32,
                device=stored.device,
            )
        made.stored = stored
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Widened({self.stored!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func in _MOVES and _of_one_type(args):
            moved = func(*_each(_stored, args), **kwargs)
            return tree_map_only(torch.Tensor, Widened, moved)
        if func in _PICKS and isinstance(args[0], Widened) and not _has_widened((args[1:], kwargs)):
            return func(args[0].stored, *args[1:], **kwargs).float()
        if func in _FACTORS and not kwargs and _is_product(*(factors := _FACTORS[func](*args))):
            return _product(*factors)
        if func._schema.is_mutable and _has_widened(_written(func, args, kwargs)):
            raise RuntimeError(f"{func} would write to a weight that is widened when it is used")
        return func(*_each(_widen, args), **_each(_widen, kwargs))


class WidenedWhenUsed:
    """A tensor of a checkpoint, read by a slice that takes all of it: a matrix, or more, in half precision is widened
    when it is used. Vectors and scalars are small, and used in many ways."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __getitem__(self, everything: Any) -> torch.Tensor:
        x: torch.Tensor = self._source[everything]
        return Widened(x) if x.ndim > 1 and x.dtype in HALVES else x


def _each(function: Any, values: Any) -> Any:
    return tree_map_only(Widened, function, values)


def _stored(x: Widened) -> torch.Tensor:
    return x.stored


def _widen(x: Widened) -> torch.Tensor:
    return x.stored.float()


def _has_widened(values: Any) -> bool:
    return tree_any(lambda x: isinstance(x, Widened), values)


def _of_one_type(args: Sequence[Any]) -> bool:
    """Whether all tensors among the arguments of ``cat`` and the like are stored in one type."""
    tensors = args[0] if isinstance(args[0], list | tuple) else args[:1]
    return all(isinstance(x, Widened) for x in tensors) and len({x.stored.dtype for x in tensors}) == 1


def _product(x: torch.Tensor, weight: Widened, bias: torch.Tensor | None) -> torch.Tensor:
    """``x`` [..., n] times ``weight`` [n, columns], with ``bias`` [columns] added."""
    n, columns = weight.shape
    rows = x.reshape(-1, n)
    result = x.new_empty(len(rows), columns)
    step = max(1, TILE // n)
    for begin in range(0, columns, step):
        part = slice(begin, begin + step)
        tile = weight.stored[:, part].float()
        if bias is None:
            torch.mm(rows, tile, out=result[:, part])
        else:
            torch.addmm(bias[part], rows, tile, out=result[:, part])
    return result.reshape(*x.shape[:-1], columns)


def _is_product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    plain = not _has_widened((x, bias)) and (bias is None or bias.ndim == 1)
    return plain and isinstance(weight, Widened) and weight.ndim == 2


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments that an operation writes to."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | dict(kwargs)
    written = (a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    return [given.get(name) for name in written]

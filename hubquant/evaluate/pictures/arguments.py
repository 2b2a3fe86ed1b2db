"""What a denoiser is called with, nested as it is in lists, tuples and dicts, as JSON that names tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from hubquant.errors import EvaluationError

PLAIN = (bool, int, float, str, type(None))


def take_apart(value: Any, keep: Callable[[Tensor], str]) -> Any:
    """``value`` for JSON. ``keep`` gives the name of a tensor. Raises ``EvaluationError`` for anything but tensors and
    plain values."""
    if isinstance(value, Tensor):
        return {"tensor": keep(value)}
    if isinstance(value, tuple | list):
        return {"tuple" if isinstance(value, tuple) else "list": [take_apart(each, keep) for each in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: take_apart(each, keep) for key, each in value.items()}}
    if isinstance(value, PLAIN):
        return value
    raise EvaluationError(
        f"the denoiser is called with a {type(value).__name__}, which cannot be recorded",
        why="tensors, numbers and text are recorded, and lists, tuples and dicts of them",
        hint="leave evaluation out with --set evaluate.skip=true, and report it with the name of the pipeline",
    )


def put_together(node: Any, tensor: Callable[[str], Tensor]) -> Any:
    """What was taken apart; ``tensor`` gives one by its name."""
    if not isinstance(node, dict):
        return node
    [(kind, content)] = node.items()
    if kind == "tensor":
        return tensor(content)
    if kind == "dict":
        return {key: put_together(each, tensor) for key, each in content.items()}
    items = [put_together(each, tensor) for each in content]
    return tuple(items) if kind == "tuple" else items


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with its tensors changed, however they are nested."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(mapped(each, change) for each in value)
    if isinstance(value, Mapping):
        return {key: mapped(each, change) for key, each in value.items()}
    return value

"""Where in a transformers model the inputs of a weight are seen.

A tap is named before the model is there, and shows what it sees to a :class:`Watcher` once it is attached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from hubquant.errors import ImatrixError
from hubquant.models.taps.observer import Watcher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Detach = Callable[[], None]


class Tap(Protocol):
    """Equal taps see the same: it is shown once."""

    @property
    def module(self) -> str:
        """The module that the tap is at, by its name in transformers."""

    def attach(self, model: PreTrainedModel, key: str, observer: Watcher) -> Detach:
        """Show ``observer`` under ``key`` what is seen, until detached. ``ImatrixError`` when it cannot be seen."""

    def order(self) -> torch.Tensor | None:
        """Which of the columns that are seen each column of the weight is, int64 [n_in]: what is known of inputs x is
        ``x[..., order]`` for the weight. None where they are in one order."""


class AsSeen:
    """The weight has its columns in the order that is seen."""

    def order(self) -> None:
        return None


@dataclass(frozen=True)
class ModuleInput(AsSeen):
    """What a module is called with: x [..., n_in]."""

    module: str

    def attach(self, model: PreTrainedModel, key: str, observer: Watcher) -> Detach:
        def see(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # A hook that returns anything would replace the input.
            observer.see(key, args[0] if args else next(iter(kwargs.values())))

        return find(model, self.module).register_forward_pre_hook(see, with_kwargs=True).remove


@dataclass(frozen=True)
class ModuleOutput(AsSeen):
    """The first ``size`` numbers of each of the ``heads`` that a module gives side by side, all of them by default."""

    module: str
    heads: int = 1
    size: int | None = None

    def attach(self, model: PreTrainedModel, key: str, observer: Watcher) -> Detach:
        def see(_module: torch.nn.Module, _args: tuple[Any, ...], output: torch.Tensor) -> None:
            heads = output.reshape(-1, self.heads, output.shape[-1] // self.heads)
            observer.see(key, heads[..., : self.size].flatten(1))

        return find(model, self.module).register_forward_hook(see).remove


class Permutation(Protocol):
    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]: ...


@dataclass(frozen=True)
class Reordered:
    """The weight has the ``n_in`` columns that ``seen`` sees in another order: as ``operation`` puts those of a row."""

    seen: Tap
    operation: Permutation
    n_in: int

    @property
    def module(self) -> str:
        return self.seen.module

    def attach(self, model: PreTrainedModel, key: str, observer: Watcher) -> Detach:
        return self.seen.attach(model, key, observer)

    def order(self) -> torch.Tensor:
        seen = self.seen.order()
        (row,) = self.operation.forward([(torch.arange(self.n_in) if seen is None else seen)[None]])
        return row[0]


def find(model: PreTrainedModel, module: str) -> torch.nn.Module:
    try:
        return model.get_submodule(module)
    except AttributeError:
        raise ImatrixError(
            f"the model has no module {module}",
            why=f"{type(model).__name__} of this version of transformers is built otherwise",
            hint="use the versions of constraints.txt",
        ) from None


@contextmanager
def attached(model: PreTrainedModel, taps: dict[str, Tap], observer: Watcher) -> Iterator[None]:
    """With ``observer`` shown what all ``taps`` see, each under its key; afterwards the model is as it was."""
    detach: list[Detach] = []
    try:
        for key, tap in taps.items():
            detach.append(tap.attach(model, key, observer))
        yield
    finally:
        for each in reversed(detach):
            each()

"""Where in a transformers model the inputs of a weight are seen.

A tap is named before the model is there, and sends what it sees to :class:`InputSums` once it is attached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from hubquant.errors import ImatrixError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hubquant.observe.sums import InputSums

Detach = Callable[[], None]


class Tap(Protocol):
    """Equal taps see the same: their sums are kept once."""

    @property
    def module(self) -> str:
        """The module that the tap is at, by its name in transformers."""

    def attach(self, model: PreTrainedModel, key: str, sums: InputSums) -> Detach:
        """Send what is seen to ``sums`` under ``key`` until it is detached. ``ImatrixError`` when it cannot be seen."""

    def columns(self, x: torch.Tensor) -> torch.Tensor:
        """Numbers by column [n_mat, n_in] in the weight's order, from those in the order that was seen."""


class AsSeen:
    """The weight has its columns in the order that is seen."""

    def columns(self, x: torch.Tensor) -> torch.Tensor:
        return x


@dataclass(frozen=True)
class ModuleInput(AsSeen):
    """What a module is called with: x [..., n_in]."""

    module: str

    def attach(self, model: PreTrainedModel, key: str, sums: InputSums) -> Detach:
        def see(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # A hook that returns anything would replace the input.
            sums.add(key, args[0] if args else next(iter(kwargs.values())))

        return find(model, self.module).register_forward_pre_hook(see, with_kwargs=True).remove


@dataclass(frozen=True)
class ModuleOutput(AsSeen):
    """The first ``size`` numbers of each of the ``heads`` that a module gives side by side, all of them by default."""

    module: str
    heads: int = 1
    size: int | None = None

    def attach(self, model: PreTrainedModel, key: str, sums: InputSums) -> Detach:
        def see(_module: torch.nn.Module, _args: tuple[Any, ...], output: torch.Tensor) -> None:
            heads = output.reshape(-1, self.heads, output.shape[-1] // self.heads)
            sums.add(key, heads[..., : self.size].flatten(1))

        return find(model, self.module).register_forward_hook(see).remove


class ColumnOrder(Protocol):
    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]: ...


@dataclass(frozen=True)
class Reordered:
    """The weight has what ``seen`` sees in another order of columns: what the operation ``order`` makes of a row."""

    seen: Tap
    order: ColumnOrder

    @property
    def module(self) -> str:
        return self.seen.module

    def attach(self, model: PreTrainedModel, key: str, sums: InputSums) -> Detach:
        return self.seen.attach(model, key, sums)

    def columns(self, x: torch.Tensor) -> torch.Tensor:
        (ordered,) = self.order.forward([self.seen.columns(x)])
        return ordered


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
def attached(model: PreTrainedModel, taps: dict[str, Tap], sums: InputSums) -> Iterator[None]:
    """With all ``taps`` sending to ``sums``, each under its key; afterwards the model is as it was."""
    detach: list[Detach] = []
    try:
        for key, tap in taps.items():
            detach.append(tap.attach(model, key, sums))
        yield
    finally:
        for each in reversed(detach):
            each()

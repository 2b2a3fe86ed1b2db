"""Who is shown what flows into the weights of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch


class Watcher(Protocol):
    """What taps show inputs to: in the model's dtype, on its device and with their columns as they are seen
    (:meth:`Tap.order`); they are the model's own, not to be changed."""

    def see(self, key: str, x: torch.Tensor) -> None:
        """The rows of ``x`` [..., n_in] flow into a weight of one matrix, those of each chunk after the one before.

        ``key`` is the tap's. Weights with one input are shown the same tensor.
        """

    def see_expert(self, key: str, expert: int, n_experts: int, x: torch.Tensor) -> None:
        """The rows of ``x`` [rows, n_in], of any chunks of the batch, flow into one matrix of a weight that has
        ``n_experts``. An expert without rows may not be shown."""


class Observer(Watcher, Protocol):
    """Gathers what taps see of one pass over a model, batch by batch: a batch counts once it is committed.

    A batch is some chunks of tokens that run together.
    """

    @property
    def kind(self) -> str:
        """What is gathered, and how: observers of one kind go on with each other's state."""

    def begin(self, n_chunks: int) -> None:
        """Start a batch of ``n_chunks`` chunks; an earlier one that was not committed is forgotten."""

    def commit(self) -> None:
        """Let the batch count."""

    def state(self) -> dict[str, torch.Tensor]:
        """What was committed: tensors on the CPU that nothing else shares, by names that ``restore`` understands."""

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a ``state``, before the first batch."""


@dataclass(frozen=True)
class Together:
    """Several observers of one pass, as one."""

    observers: tuple[Observer, ...]

    @property
    def kind(self) -> str:
        return ", ".join(each.kind for each in self.observers)

    def begin(self, n_chunks: int) -> None:
        for each in self.observers:
            each.begin(n_chunks)

    def see(self, key: str, x: torch.Tensor) -> None:
        for each in self.observers:
            each.see(key, x)

    def see_expert(self, key: str, expert: int, n_experts: int, x: torch.Tensor) -> None:
        for each in self.observers:
            each.see_expert(key, expert, n_experts, x)

    def commit(self) -> None:
        for each in self.observers:
            each.commit()

    def state(self) -> dict[str, torch.Tensor]:
        return {f"{number}:{name}": x for number, each in enumerate(self.observers) for name, x in each.state().items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        for number, each in enumerate(self.observers):
            prefix = f"{number}:"
            each.restore({name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)})

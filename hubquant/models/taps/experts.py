"""What flows into experts that transformers fuses into one module.

transformers lets experts be computed by a function registered under a name (``ALL_EXPERTS_FUNCTIONS``). The one here
computes them one by one and shows the inputs of both matrices; a module that knows no such functions has its forward
method replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn.functional import linear

from hubquant.errors import ImatrixError
from hubquant.models.taps.observer import Watcher
from hubquant.models.taps.tap import AsSeen, Detach, find

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMPLEMENTATION = "hubquant_observed"
_OBSERVERS = "_hubquant_observers"

SeeRows = Callable[[int, torch.Tensor], None]
"""Called with an expert's number and its rows [rows, n_in]."""

Way = Literal["registered", "spread", "in rows"]
"""How a module computes its experts: by a function that transformers registers; called with every token for every
expert, zero where it is not routed; or with each matrix of all experts as the rows of one."""


@dataclass(frozen=True)
class ExpertInput(AsSeen):
    """The tokens that each expert of a module is given: the input of its gate and up matrices."""

    module: str
    way: Way = "registered"

    def attach(self, model: PreTrainedModel, key: str, observer: Watcher) -> Detach:
        return _observe(model, self, "input", key, observer)


@dataclass(frozen=True)
class ExpertHidden(AsSeen):
    """What each expert of a module computes of them: the input of its down matrix."""

    module: str
    way: Way = "registered"

    def attach(self, model: PreTrainedModel, key: str, observer: Watcher) -> Detach:
        return _observe(model, self, "hidden", key, observer)


def _observe(
    model: PreTrainedModel, tap: ExpertInput | ExpertHidden, where: str, key: str, observer: Watcher
) -> Detach:
    module: Any = find(model, tap.module)
    n_experts = int(module.num_experts)

    def see(expert: int, x: torch.Tensor) -> None:
        observer.see_expert(key, expert, n_experts, x)

    observers: dict[str, SeeRows] | None = getattr(module, _OBSERVERS, None)
    if observers is not None:
        observers[where] = see
        return lambda: None
    setattr(module, _OBSERVERS, {where: see})
    restore = _register_forward(module) if tap.way == "registered" else _replace_forward(module, tap.way)

    def detach() -> None:
        restore()
        delattr(module, _OBSERVERS)

    return detach


def _register_forward(module: Any) -> Detach:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    if not hasattr(module, "is_transposed"):
        raise ImatrixError(
            f"the experts of {type(module).__name__} cannot be observed",
            why="transformers computes them in its own way",
            hint="quantize without importance: --set imatrix.skip=true",
        )
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _routed_forward)
    before = module.config._experts_implementation
    module.config._experts_implementation = IMPLEMENTATION

    def restore() -> None:
        module.config._experts_implementation = before

    return restore


def _replace_forward(module: Any, way: Way) -> Detach:
    # accelerate puts a method of its own in the place of forward, which loads the weights and calls the old one.
    method = "_old_forward" if hasattr(module, "_old_forward") else "forward"
    original = getattr(module, method)
    setattr(module, method, partial(_spread_forward if way == "spread" else _in_rows_forward, module))
    return lambda: setattr(module, method, original)


def _routed_forward(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """``hidden_states`` [tokens, n]; ``top_k_index`` and ``top_k_weights`` [tokens, experts of each]."""
    first = "gate_up_proj" if self.has_gate else "up_proj"
    into, out_of = getattr(self, first), self.down_proj
    into_bias, out_of_bias = (getattr(self, f"{first}_bias"), self.down_proj_bias) if self.has_bias else (None, None)

    def enter(expert: int, x: torch.Tensor) -> torch.Tensor:
        h = _multiply(x, into, into_bias, expert, self.is_transposed)
        gated: torch.Tensor = self._apply_gate(h) if self.has_gate else self.act_fn(h)
        return gated

    def leave(expert: int, h: torch.Tensor) -> torch.Tensor:
        y = _multiply(h, out_of, out_of_bias, expert, self.is_transposed)
        normed: torch.Tensor = self.post_expert_norm(y) if self.has_post_expert_norm else y
        return normed

    return _route(self, hidden_states, top_k_index, top_k_weights, enter, leave)


def _in_rows_forward(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """As :func:`_routed_forward` of ``hidden_states`` [..., n], with matrices [experts * hidden, n]."""
    shape = (self.num_experts, self.ffn_hidden_size, self.hidden_size)
    gate, up, down = (matrix.view(shape) for matrix in (self.mlp.w1, self.mlp.v1, self.mlp.w2))

    def enter(expert: int, x: torch.Tensor) -> torch.Tensor:
        h: torch.Tensor = self.mlp.activation_fn(linear(x, gate[expert])) * linear(x, up[expert])
        return h

    def leave(expert: int, h: torch.Tensor) -> torch.Tensor:
        return linear(h, down[expert].T)

    x = hidden_states.reshape(-1, self.hidden_size)
    return _route(self, x, top_k_index, top_k_weights, enter, leave).view_as(hidden_states)


def _route(
    module: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
    enter: Callable[[int, torch.Tensor], torch.Tensor],
    leave: Callable[[int, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Each expert's tokens through all before its last matrix (``enter``) and that (``leave``), weighted and added."""
    result = torch.zeros_like(hidden_states, dtype=torch.float32)
    for expert in range(module.num_experts):
        token, slot = torch.where(top_k_index == expert)
        if len(token) == 0:
            continue
        x = hidden_states[token]
        h = enter(expert, x)
        _show_rows(module, expert, x, h)
        result.index_add_(0, token, (leave(expert, h) * top_k_weights[token, slot, None]).float())
    return result.to(hidden_states.dtype)


def _multiply(
    x: torch.Tensor, weights: torch.Tensor, biases: torch.Tensor | None, expert: int, transposed: bool
) -> torch.Tensor:
    weight, bias = weights[expert], None if biases is None else biases[expert]
    return linear(x, weight.T if transposed else weight, bias)


def _spread_forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """``hidden_states`` [experts * tokens, n]: every token for every expert, zero where it is not routed."""
    x = hidden_states.view(self.num_experts, -1, self.hidden_size)
    result = torch.zeros_like(x)
    for expert in range(self.num_experts):
        (token,) = torch.where(x[expert].any(-1))
        rows = x[expert, token]
        gate, up = (rows @ self.gate_up_proj[expert]).chunk(2, dim=-1)
        h = up * self.act_fn(gate)
        _show_rows(self, expert, rows, h)
        result[expert, token] = h @ self.down_proj[expert]
    return result.view(-1, self.hidden_size)


def _show_rows(module: Any, expert: int, x: torch.Tensor, h: torch.Tensor) -> None:
    observers: dict[str, SeeRows] = getattr(module, _OBSERVERS, {})
    for where, rows in (("input", x), ("hidden", h)):
        if where in observers:
            observers[where](expert, rows)

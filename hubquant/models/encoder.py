"""An encoder of transformers, or a decoder without its output layer, as it is run: token ids in, one embedding out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from hubquant.models.dense import project
from hubquant.models.language_model import where_it_runs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pooling = Literal["mean", "cls", "last"]
"""How a text's states [n, width] become one embedding, as llama.cpp has it: their mean, or that of one token."""
_POOLED: dict[Pooling, Callable[[Tensor], Tensor]] = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "last": lambda states: states[-1],
}


@dataclass(frozen=True)
class Encoder:
    """Token ids [n] -> embedding float32 [width] on the CPU, not normalized."""

    model: PreTrainedModel
    pooling: Pooling

    def __call__(self, ids: Tensor) -> Tensor:
        model: Any = self.model
        with torch.inference_mode():
            states: Tensor = model.base_model(where_it_runs(model, ids[None])).last_hidden_state[0]
            return project(model, _POOLED[self.pooling](states.float())).float().cpu()

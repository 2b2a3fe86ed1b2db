"""A causal language model of transformers as it is run: token ids in, logits out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LanguageModel:
    """Token ids [n] -> logits [n - first, n_vocab] of those from the ``first`` on, on the model's device and in its
    dtype, without gradients. No others are computed."""

    model: PreTrainedModel

    def __call__(self, ids: Tensor, first: int = 0, /) -> Tensor:
        model: Any = self.model
        with torch.inference_mode():
            logits: Tensor = model(where_it_runs(model, ids[None]), logits_to_keep=len(ids) - first).logits[0]
        return logits


def where_it_runs(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """``ids``, of any shape, on the device of the model's first weight. Weights that accelerate keeps elsewhere are on
    none; it moves the ids to where they will be."""
    return ids if model.device.type == "meta" else ids.to(model.device)

"""A causal language model of transformers as it is run: token ids in, logits out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LanguageModel:
    """Token ids [n] -> logits [n - first, n_vocab] of those from the ``first`` on, on the model's device and in its
    dtype, without gradients. No others are computed."""

    model: PreTrainedModel

    without_gradients: ClassVar[type[torch.inference_mode] | type[torch.no_grad]] = torch.inference_mode

    def __call__(self, ids: Tensor, first: int = 0, /) -> Tensor:
        model: Any = self.model
        with self.without_gradients():
            logits: Tensor = model(where_it_runs(model, ids[None]), logits_to_keep=len(ids) - first).logits[0]
        return logits


class LibraryModel(LanguageModel):
    """One that a library has quantized: its tensors of codes may be none that ``torch.inference_mode`` takes, as
    quanto's of four bits are not."""

    without_gradients = torch.no_grad


def where_it_runs(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """``ids``, of any shape, on the device of the model's first weight. Weights that accelerate keeps elsewhere are on
    none; it moves the ids to where they will be."""
    return ids if model.device.type == "meta" else ids.to(model.device)

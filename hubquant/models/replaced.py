"""Run a loaded model with other numbers in some of its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.models.streamed_weights import put_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def replaced(model: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """While it is open ``model`` has ``weights``, floats by the names of a checkpoint, in the places of its own, and
    wherever these are tied to. What transformers fuses must be given together.

    Raises ``NotSupportedYet`` for a model part of which is not in memory, and ``CheckpointError`` for weights that are
    not the model's.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping

    before = dict(model.named_parameters(remove_duplicate=False))
    if any(parameter.is_meta for parameter in before.values()):
        raise NotSupportedYet(
            "tensors of a model that is larger than memory, measured one by one",
            hint="name a file type, such as Q4_K_M, instead of a size",
        )
    mapping: Any = get_model_conversion_mapping(model)
    try:
        fit = put_weights(model, weights, mapping, model.device)
        now = dict(model.named_parameters(remove_duplicate=False))
        changed = {id(old): now[name] for name, old in before.items() if now[name] is not old}
        if not fit or not changed:
            raise CheckpointError(
                f"{next(iter(weights))} does not fit transformers' model",
                hint="compare config.json and the weights with the original repository",
            )
        _put(model, {name: changed[id(old)] for name, old in before.items() if id(old) in changed})
        model.requires_grad_(False)
        yield
    finally:
        _put(model, before)


def _put(model: PreTrainedModel, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        place, _, own = name.rpartition(".")
        model.get_submodule(place)._parameters[own] = parameter

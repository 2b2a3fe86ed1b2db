"""Run a model that streams with other numbers in some of its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from hubquant.errors import CheckpointError
from hubquant.models.streamed_weights import StreamedWeights


@contextmanager
def replaced(loaded: StreamedWeights, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """While it is open what is ``loaded`` has ``weights``, floats by the names of a checkpoint, in the places of its
    own. What transformers fuses must be given together. Nothing may be loaded meanwhile.

    Raises ``CheckpointError`` for weights that are not the model's.
    """
    model = loaded.skeleton
    before = dict(model.named_parameters(remove_duplicate=False))
    try:
        fit = loaded.put(weights)
        now = dict(model.named_parameters(remove_duplicate=False))
        if not fit or all(now[name] is before[name] for name in before):
            raise CheckpointError(
                f"{next(iter(weights))} does not fit transformers' model",
                hint="compare config.json and the weights with the original repository",
            )
        yield
    finally:
        for name, parameter in before.items():
            place, _, own = name.rpartition(".")
            model.get_submodule(place)._parameters[own] = parameter

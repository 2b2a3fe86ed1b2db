"""The layers of a model that a library quantizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def linear_layers(model: Any, skip: Sequence[str] = ()) -> Iterator[tuple[str, nn.Linear]]:
    """All ``torch.nn.Linear`` of a model by name, but those whose name holds one of ``skip``, and the output embedding
    of a model of transformers."""
    from torch import nn

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for name, module in model.named_modules():
        # Not its subclasses: they are quantized already, or their owner computes with the bare weight.
        if type(module) is nn.Linear and module is not head and not any(part in name for part in skip):
            yield name, module

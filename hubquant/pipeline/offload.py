"""How a model is run to collect an importance matrix, in the memory that there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.devices import Device, device_memory_bytes
from hubquant.engine.machine import memory_bytes
from hubquant.engine.task import FP32_BYTES
from hubquant.errors import ImatrixError
from hubquant.pipeline.costs import bytes_of_weight, on_device
from hubquant.pipeline.held import Offload
from hubquant.recipe.schema import Imatrix
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from hubquant.models.stream import Keep

SPILLED_SHARE = 4  # hidden states of more than a quarter of the memory wait in files


def choose_offload(settings: Imatrix, component: Component, device: Device = "auto") -> Offload:
    """How the model is run: as the settings say, or by whether its weights leave a fifth of the memory free.

    Raises ``ImatrixError`` when a GGUF file, which cannot be streamed, is to be offloaded.
    """
    can_stream = component.source.can_stream
    if settings.offload not in ("auto", "none") and not can_stream:
        raise ImatrixError(
            "a GGUF file cannot be offloaded",
            why="its weights are read back into transformers' model as a whole",
            hint="collect from the checkpoint, or leave imatrix.offload out",
        )
    if settings.offload != "auto":
        return settings.offload
    memory = memory_bytes() + (device_memory_bytes() if on_device(device) else 0)
    fits = bytes_of_weight(device) * component.n_parameters <= 0.8 * memory
    return "none" if fits or not can_stream else "stream"


def streaming_bytes(component: Component, n_tokens: int) -> int:
    """Memory that streaming takes: a block in float32, the next as it is stored, and the hidden states in memory."""
    return 2 * FP32_BYTES * component.largest_block + min(
        hidden_bytes(component, n_tokens), memory_bytes() // SPILLED_SHARE
    )


def hidden_bytes(component: Component, n_tokens: int) -> int:
    return FP32_BYTES * n_tokens * component.width


def room(component: Component, n_tokens: int, folder: Path, device: Device = "auto") -> Keep:
    """Where hidden states wait: on a GPU where they are."""
    from hubquant.models.spill import Spill
    from hubquant.models.stream import in_memory

    spills = hidden_bytes(component, n_tokens) > memory_bytes() // SPILLED_SHARE
    return Spill(folder) if spills and not on_device(device) else in_memory

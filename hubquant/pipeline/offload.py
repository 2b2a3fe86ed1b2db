"""How a model is run in the memory that there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hubquant.devices import Device, device_memory_bytes
from hubquant.engine.machine import memory_bytes
from hubquant.engine.task import FP32_BYTES
from hubquant.errors import ImatrixError
from hubquant.pipeline.costs import HALF_BYTES, on_device
from hubquant.pipeline.held import Offload
from hubquant.recipe.schema import Imatrix
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from hubquant.models.stream import BlockStream
    from hubquant.models.streamed_weights import StreamedWeights

Way = Literal["stored", "streamed"]
WayOrAuto = Literal["auto", "stored", "streamed"]

SPILLED_SHARE = 4  # what takes more than a quarter of the memory is in files: hidden states, an output layer


def choose_offload(settings: Imatrix, component: Component, device: Device = "auto") -> Offload:
    """How the model is run to be calibrated: as the settings say, or by whether it fits.

    Raises ``ImatrixError`` when accelerate is to offload a GGUF file.
    """
    if settings.offload in ("cpu", "disk") and not component.source.can_offload:
        raise ImatrixError(
            f"a GGUF file cannot be offloaded to {'main memory' if settings.offload == 'cpu' else 'disk'}",
            why="accelerate does that, which reads no GGUF",
            hint="stream it: leave imatrix.offload out, or set it to stream",
        )
    if settings.offload != "auto":
        return settings.offload
    if component.embeds:  # none of them is as large as that
        return "none"
    return "none" if _fits(component, component.source.bytes_of_weight, device) else "stream"


def choose_way(
    way: WayOrAuto, component: Component, device: Device = "auto", bytes_of_weight: float = FP32_BYTES
) -> Way:
    """How the model runs, or is compared with its files: as it is said, or by whether it fits. Files are float32 once
    they are read back; the model alone may take fewer ``bytes_of_weight``."""
    if way != "auto":
        return way
    return "stored" if _fits(component, bytes_of_weight, device) else "streamed"


def _fits(component: Component, bytes_of_weight: float, device: Device) -> bool:
    """Whether the weights of the loaded model, which take ``bytes_of_weight`` each on a CPU, leave a fifth of the
    memory free."""
    memory = memory_bytes() + (device_memory_bytes() if on_device(device) else 0)
    weight = HALF_BYTES if on_device(device) else bytes_of_weight
    return weight * component.n_parameters <= 0.8 * memory


def streaming_bytes(component: Component, n_tokens: int) -> int:
    """Memory that streaming takes: a block in float32, the next as it is stored, and the hidden states in memory."""
    return 2 * FP32_BYTES * component.largest_block + _in_memory(hidden_bytes(component, n_tokens))


def output_bytes(component: Component) -> int:
    """Memory that the output layer takes after the blocks."""
    return _in_memory(_output_size(component))


def scratch_bytes(component: Component, n_tokens: int) -> int:
    """On the disk while a model streams: the hidden states that a block gets and gives, those that are kept and those
    that are being kept, and an output layer that does not stay in memory."""
    output = _output_size(component)
    return 4 * hidden_bytes(component, n_tokens) + (output if _spills(output) else 0)


def hidden_bytes(component: Component, n_tokens: int) -> int:
    return FP32_BYTES * n_tokens * component.hidden_size


def stream_of(
    weights: StreamedWeights, component: Component, n_tokens: int, folder: Path, device: Device = "auto"
) -> BlockStream:
    """The blocks of ``component`` or of a file of it. What would take more than its share of the memory is in files in
    ``folder``, and on a GPU nothing is."""
    import torch

    from hubquant.models.spill import Spill
    from hubquant.models.stream import BlockStream, in_memory

    if on_device(device):
        return BlockStream(weights)
    spill = Spill(folder)
    return BlockStream(
        weights,
        spill if _spills(hidden_bytes(component, n_tokens)) else in_memory,
        spill.empty if _spills(_output_size(component)) else torch.empty,
    )


def _output_size(component: Component) -> int:
    return FP32_BYTES * component.width * component.n_vocab


def _spills(n_bytes: int) -> bool:
    return n_bytes > memory_bytes() // SPILLED_SHARE


def _in_memory(n_bytes: int) -> int:
    """Of what may spill: as much as the system leaves there."""
    return min(n_bytes, memory_bytes() // SPILLED_SHARE)

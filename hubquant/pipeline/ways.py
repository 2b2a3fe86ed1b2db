"""How a model is run to collect an importance matrix, in the memory that there is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.devices import device_memory_bytes
from hubquant.engine.machine import memory_bytes
from hubquant.errors import ImatrixError
from hubquant.pipeline.costs import FP32_BYTES, Shapes, bytes_of_weight
from hubquant.pipeline.held import Way
from hubquant.recipe.schema import Imatrix

if TYPE_CHECKING:
    from hubquant.models.stream import Keep
    from hubquant.models.streamed_weights import StreamedWeights

SPILLED_SHARE = 4  # hidden states of more than a quarter of the memory wait in files


def choose_way(settings: Imatrix, shapes: Shapes, *, can_stream: bool) -> Way:
    """How the model is run: as the settings say, or by whether its weights leave a fifth of the memory free.

    Raises ``ImatrixError`` when a GGUF file, which cannot be streamed, is to be offloaded.
    """
    if settings.offload not in ("auto", "none") and not can_stream:
        raise ImatrixError(
            "a GGUF file cannot be offloaded",
            why="its weights are read back into transformers' model as a whole",
            hint="collect from the checkpoint, or leave imatrix.offload out",
        )
    if settings.offload != "auto":
        return settings.offload
    n_parameters = sum(math.prod(shape) for shape in shapes.values())
    fits = bytes_of_weight() * n_parameters <= 0.8 * (memory_bytes() + device_memory_bytes())
    return "none" if fits or not can_stream else "stream"


def streaming_bytes(shapes: Shapes, n_tokens: int) -> int:
    """Memory that streaming takes: a block in float32, the next as it is stored, and the hidden states in memory."""
    blocks: dict[str, int] = {}
    for name, shape in shapes.items():
        if name.startswith("blk."):
            number = name.split(".")[1]
            blocks[number] = blocks.get(number, 0) + math.prod(shape)
    return 2 * FP32_BYTES * max(blocks.values(), default=0) + min(
        hidden_bytes(shapes, n_tokens), memory_bytes() // SPILLED_SHARE
    )


def hidden_bytes(shapes: Shapes, n_tokens: int) -> int:
    return FP32_BYTES * n_tokens * shapes["token_embd.weight"][1]


def open_weights(checkpoint: Checkpoint) -> StreamedWeights:
    """A checkpoint on disk, to be read block by block."""
    from hubquant.convert.config import read_architecture
    from hubquant.convert.plain import plain_checkpoint
    from hubquant.devices import default_device
    from hubquant.models.streamed_weights import StreamedWeights

    plain = plain_checkpoint(checkpoint)
    architecture, config = read_architecture(plain.config)
    tables = architecture.token_tables(config)
    return StreamedWeights(plain, config, architecture.blocks, str(architecture.output), tables, default_device())


def room(shapes: Shapes, n_tokens: int, folder: Path) -> Keep:
    """Where hidden states wait: on a GPU where they are."""
    from hubquant.devices import default_device
    from hubquant.models.spill import Spill
    from hubquant.models.stream import in_memory

    spills = hidden_bytes(shapes, n_tokens) > memory_bytes() // SPILLED_SHARE
    return Spill(folder) if spills and default_device() == "cpu" else in_memory

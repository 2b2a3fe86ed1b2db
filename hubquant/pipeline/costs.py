"""Upper estimates of what tasks take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hubquant.devices import Device, chosen_device
from hubquant.engine.task import FP32_BYTES, Cost
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from hubquant.calibration import Chunks

HALF_BYTES = 2
LIBRARIES_BYTES = 1 << 30  # the interpreter with torch, transformers and compiled kernels
ENTRY_BYTES = 1 << 10  # names and counts of an entry of an importance matrix
LOGIT_COPIES = 6  # logits, log-probabilities of both models, their difference and two temporaries
REPORT_BYTES = 35  # of each token of a text, of which half are scored: its statistics, and what a kill leaves of them
VERIFY_COPIES = 3  # a tensor as read, one that is being read, and what that is made of

Shapes = Mapping[str, tuple[int, ...]]


def running_cost(
    n_parameters: int,
    n_tokens: int,
    logits: int = 0,
    disk_bytes: int = 0,
    device: Device = "auto",
    bytes_of_weight: float = FP32_BYTES,
) -> Cost:
    """Of a forward pass over ``n_tokens`` with a model that is loaded as a whole; ``logits`` are those of a chunk.

    A weight takes ``bytes_of_weight`` on a CPU, on average.
    """
    in_memory = FP32_BYTES if on_device(device) else bytes_of_weight
    return Cost(
        ram_bytes=LIBRARIES_BYTES + math.ceil(in_memory * n_parameters) + FP32_BYTES * LOGIT_COPIES * logits,
        device_bytes=HALF_BYTES * n_parameters if on_device(device) else 0,
        disk_bytes=disk_bytes,
        work=float(n_parameters) * n_tokens,
    )


def evaluating_cost(
    component: Component,
    chunks: Chunks,
    disk_bytes: int = 0,
    device: Device = "auto",
    bytes_of_weight: float = FP32_BYTES,
) -> Cost:
    """Of running a component, or a file of it, over ``chunks`` and looking at its logits."""
    logits = chunks.chunk_size * component.n_vocab
    return running_cost(component.n_parameters, chunks.n_tokens, logits, disk_bytes, device, bytes_of_weight)


def verifying_cost(shapes: Shapes) -> Cost:
    sizes = [math.prod(shape) for shape in shapes.values()]
    return Cost(ram_bytes=LIBRARIES_BYTES + VERIFY_COPIES * FP32_BYTES * max(sizes), work=sum(sizes))


def matrix_bytes(shapes: Iterable[tuple[int, ...]]) -> int:
    """Of an importance matrix of weights of these shapes, with the state that its collection leaves should it be
    killed: for each column two sums in float32 and one in float64."""
    return sum(4 * FP32_BYTES * math.prod(shape[:-2]) * shape[-1] + ENTRY_BYTES for shape in shapes)


def on_device(device: Device) -> bool:
    return chosen_device(device) != "cpu"

"""Memory and disk that a plan needs, and whether this machine has them."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from hubquant.backends.gguf.files import FilePlan, Weights
from hubquant.errors import NotSupportedYet, OutputError
from hubquant.recipe.schema import Recipe
from hubquant.units import size

FP32_BYTES = 4
LIBRARIES_BYTES = 1 << 30  # the interpreter with torch, transformers and compiled kernels
LOGIT_COPIES = 6  # logits, log-probabilities of both models, their difference and two temporaries
QUANTIZE_COPIES = 3  # a tensor as read, in fp32, and its quantized forms with scratch


def memory_bytes() -> int:
    """Of the machine."""
    import psutil

    return int(psutil.virtual_memory().total)


def device_memory_bytes() -> int:
    """Of all GPUs."""
    import torch

    devices = range(torch.cuda.device_count())
    return sum(int(torch.cuda.get_device_properties(device).total_memory) for device in devices)


def peak_ram_bytes(recipe: Recipe, weights: Weights, streaming: int | None) -> int:
    """Upper estimate: the larger of a forward pass in fp32 and of quantizing the largest tensor.

    ``streaming`` is what collecting the importance matrix takes when the model is streamed.
    """
    largest = max(math.prod(shape) for shape in weights.shapes.values())
    quantizing = QUANTIZE_COPIES * FP32_BYTES * largest
    if streaming is not None:
        quantizing = max(quantizing, streaming)
    if (streaming is not None or not collects(recipe)) and recipe.evaluate.skip:
        return LIBRARIES_BYTES + quantizing
    chunk = max(recipe.calibration.chunk_size, recipe.evaluate.chunk_size)
    logits = LOGIT_COPIES * FP32_BYTES * chunk * vocabulary(weights)
    return LIBRARIES_BYTES + max(quantizing, FP32_BYTES * weights.n_parameters + logits)


def runs_model(recipe: Recipe) -> bool:
    return collects(recipe) or not recipe.evaluate.skip


def collects(recipe: Recipe) -> bool:
    return not recipe.imatrix.skip and not recipe.imatrix.given


def disk_bytes(recipe: Recipe, weights: Weights, files: Sequence[FilePlan], download: int) -> int:
    baseline = 0
    if not recipe.evaluate.skip:
        scored = recipe.evaluate.chunk_size - 1 - recipe.evaluate.chunk_size // 2
        baseline = 2 * vocabulary(weights) * scored * recipe.evaluate.chunks
    return download + baseline + sum(file.size for file in files)


def vocabulary(weights: Weights) -> int:
    return weights.shapes["token_embd.weight"][0]


def check_memory(needed: int) -> None:
    total = memory_bytes()
    if needed > total:
        raise NotSupportedYet(
            "this run in this memory",
            why=f"it needs about {size(needed)} and the machine has {size(total)}",
            hint="add --set evaluate.skip=true and leave imatrix.offload at auto: then the weights are streamed",
        )


def check_disk(needed: int, output: Path) -> None:
    """What is there already counts as free: a repeated run writes over nothing."""
    place = next(parent for parent in (output.absolute(), *output.absolute().parents) if parent.exists())
    if not place.is_dir():
        raise OutputError(f"{place} is a file", hint="pass --out with a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {place}", hint="pass --out with a folder of your own")
    present = _bytes_in(output)
    free = shutil.disk_usage(place).free
    if needed > free + present:
        raise OutputError(
            f"not enough disk space in {place}",
            why=f"the run needs {size(needed)} and {size(free)} are free",
            hint="free some space, or pass --out with a folder on another disk",
        )


def _bytes_in(folder: Path) -> int:
    """Bytes below ``folder``, each hard-linked file once."""
    if not folder.is_dir():
        return 0
    statuses = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({status.st_ino: status.st_size for status in statuses}.values())

"""The device that models run on, and what it can compute with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from hubquant.errors import UserError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda", "mps"]


def default_device() -> str:
    """ "cuda" where there is one, "mps" on Apple's GPUs, else "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def chosen_device(device: Device) -> str:
    """``device``, for "auto" the :func:`default_device`. Raises ``UserError`` for one that is not there."""
    import torch

    if device == "auto":
        return default_device()
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device not in there:
        raise UserError(f"there is no device {device!r}", hint=f"choose auto, {', '.join(there)}")
    if not there[device]:
        raise UserError(
            f"there is no device {device}",
            why=f"torch {torch.__version__} sees only {', '.join(name for name, found in there.items() if found)}",
            hint="leave --device out, or install a torch that knows the device",
        )
    return device


def device_memory_bytes() -> int:
    """Of all GPUs."""
    import torch

    devices = range(torch.cuda.device_count())
    return sum(int(torch.cuda.get_device_properties(device).total_memory) for device in devices)


def free_device_memory_bytes() -> int:
    """Of the GPU that has the least, with what torch keeps there to be used again."""
    import torch

    return min(
        torch.cuda.mem_get_info(i)[0] + torch.cuda.memory_reserved(i) - torch.cuda.memory_allocated(i)
        for i in range(torch.cuda.device_count())
    )


def where_float64_is(x: torch.Tensor) -> torch.Tensor:
    """``x`` on its device or, where that lacks float64 (Apple's), on the CPU."""
    return x.cpu() if x.device.type == "mps" else x


def in_float64(x: torch.Tensor) -> torch.Tensor:
    """``x`` of any shape in float64, :func:`where_float64_is`."""
    return where_float64_is(x).double()


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """While torch computes in ``n`` threads of its own."""
    import torch

    before = torch.get_num_threads()
    if before == n:
        yield
        return
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def in_full_float32() -> Iterator[None]:
    """While products of float32 matrices keep its precision, also on GPUs that have a faster one with ten bits."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

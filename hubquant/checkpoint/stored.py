"""The tensors of a checkpoint in floats, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.codings.floats4 import FACTOR
from hubquant.checkpoint.mxfp4 import BLOCKS, SCALES, UnpackMXFP4

if TYPE_CHECKING:
    import torch


class Stored:
    """A tensor that is read, as transformers does it, by a slice that takes all of it."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self._checkpoint, self._name = checkpoint, name

    def __getitem__(self, _all: Any) -> torch.Tensor:
        return self._checkpoint.read(self._name)


class StoredMXFP4(Stored):
    """Experts that lie as blocks and scales under names of their own."""

    def __getitem__(self, _all: Any) -> torch.Tensor:
        packed = [self._checkpoint.read(self._name + suffix) for suffix in (BLOCKS, SCALES)]
        return UnpackMXFP4().forward(packed)[0].transpose(1, 2).contiguous()


def stored_tensors(checkpoint: Checkpoint) -> dict[str, Stored]:
    """By the names that transformers' model has for them."""
    packed = {name.removesuffix(BLOCKS) for name in checkpoint.tensors if name.endswith(BLOCKS)}
    parts = {name + suffix for name in packed for suffix in (BLOCKS, SCALES)}
    parts |= {name for name in checkpoint.tensors if name.endswith(FACTOR)}
    plain = {name: Stored(checkpoint, name) for name in checkpoint.tensors if name not in parts}
    return plain | {name: StoredMXFP4(checkpoint, name) for name in packed}


class CheckpointWeights:
    """Weights of a checkpoint to be streamed: what is stored of them are they themselves, in the checkpoint's dtype."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._stored = checkpoint, stored_tensors(checkpoint)

    @property
    def names(self) -> Collection[str]:
        return self._stored.keys()

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        # What a checkpoint gives lies in its file until it is used; a copy is there when the block's turn comes.
        return {name: self._stored[name][...].clone() for name in names}

    def decode(self, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return stored

    def matrix(self, name: str) -> torch.Tensor:
        """As it lies in its file; one of FP8 is in memory."""
        return self._checkpoint.read(name)

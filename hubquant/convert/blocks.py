"""Models whose blocks come one after the other, each read when its turn comes: of a checkpoint, or of a GGUF file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.codings.floats4 import FACTOR
from hubquant.checkpoint.stored import CheckpointWeights
from hubquant.convert.config import read_architecture
from hubquant.convert.factored import weights_alone
from hubquant.convert.plain import plain_checkpoint
from hubquant.convert.restore import check_tensors, read_config, read_numbers, read_tensor
from hubquant.convert.rules.rope import FREQS, apply_freqs
from hubquant.convert.tables import Bundle
from hubquant.devices import Device, chosen_device
from hubquant.gguf_file.reader import GGUFFile
from hubquant.quants import dequantize

if TYPE_CHECKING:
    from hubquant.models.streamed_weights import StreamedWeights


def open_checkpoint(checkpoint: Checkpoint, device: Device = "auto") -> StreamedWeights:
    """The language model of a checkpoint on disk."""
    from hubquant.models.streamed_weights import StreamedWeights

    plain = plain_checkpoint(checkpoint)
    architecture, config = read_architecture(plain.config)
    if architecture.ahead:  # the blocks that stream end before them
        plain = replace(plain, tensors=architecture.ahead.without(plain.tensors))
    tables, output = architecture.token_tables(config), str(architecture.output)
    return StreamedWeights(CheckpointWeights(plain), config, architecture.blocks, output, tables, chosen_device(device))


def open_file(gguf: GGUFFile, device: Device = "auto") -> StreamedWeights:
    """The language model of a file, restored. Raises ``GGUFError`` for one whose tensors do not make up the model of
    its metadata."""
    from hubquant.models.streamed_weights import StreamedWeights

    architecture, config = read_config(gguf)
    check_tensors(gguf, architecture.bundles(config))
    bundles = list(replace(architecture, further=()).bundles(config))
    tables, output = architecture.token_tables(config), str(architecture.output)
    reader = GGUFWeights(gguf, bundles, read_numbers(gguf, architecture, config))
    weights = StreamedWeights(reader, config, architecture.blocks, output, tables, chosen_device(device))
    if FREQS in gguf.tensors:
        apply_freqs(weights.skeleton, read_tensor(gguf, FREQS))
    return weights


class GGUFWeights:
    """Weights of a file by the names of a checkpoint. What is stored of them are the bytes of the file's tensors, and
    of ``numbers`` they themselves."""

    def __init__(self, gguf: GGUFFile, bundles: Sequence[Bundle], numbers: Mapping[str, torch.Tensor]) -> None:
        self._numbers = numbers
        self._gguf, self._bundles = gguf, [bundle for bundle in bundles if bundle.sources]
        self._bundle_of = {x: bundle for bundle in self._bundles for x in bundle.sources if not x.endswith(FACTOR)}

    @property
    def names(self) -> Collection[str]:
        return self._bundle_of.keys() | self._numbers.keys()

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        bundles = [self._bundle_of[name] for name in names if name not in self._numbers]
        targets = dict.fromkeys(target for bundle in bundles for target in bundle.targets)
        numbers = {name: self._numbers[name].clone() for name in names if name in self._numbers}
        return {name: self._gguf.data(name).clone() for name in targets} | numbers

    def decode(self, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        decoded = {name: stored.pop(name) for name in self._numbers if name in stored}
        for bundle in self._bundles:
            if bundle.targets.keys() <= stored.keys():
                tensors = [self._floats(name, stored.pop(name)) for name in bundle.targets]
                restored = weights_alone(bundle.inverse(tensors))
                decoded |= {name: x.contiguous() for name, x in restored.items()}
        return decoded

    def matrix(self, name: str) -> _Matrix:
        return _Matrix(self._gguf, self._bundle_of[name], name)

    def _floats(self, name: str, data: torch.Tensor) -> torch.Tensor:
        entry = self._gguf.tensors[name]
        return dequantize(data, entry.type, entry.shape[-1]).reshape(entry.shape)


class _Matrix:
    """A matrix whose rows are each made of the rows of the same number in the file."""

    def __init__(self, gguf: GGUFFile, bundle: Bundle, name: str) -> None:
        self._gguf, self._bundle, self._name = gguf, bundle, name

    def __getitem__(self, rows: Any) -> torch.Tensor:
        entries = [self._gguf.tensors[target] for target in self._bundle.targets]
        parts = [dequantize(self._gguf.data(entry.name)[rows], entry.type, entry.shape[-1]) for entry in entries]
        return self._bundle.inverse(parts)[self._name]

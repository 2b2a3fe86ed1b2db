"""A GGUF file as the source of others: its tensors are a checkpoint's, and none of them changes its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.headers import FLOATS, TensorInfo
from hubquant.convert.ahead import AHEAD, BLOCKS, without_further
from hubquant.convert.conversion import Conversion, file_order
from hubquant.convert.restore import load_model, read_config, read_tensor
from hubquant.convert.rules.general import HUB
from hubquant.convert.rules.rule import integer
from hubquant.convert.tables import Bundle
from hubquant.devices import Device, chosen_device
from hubquant.errors import GGUFError, HubquantError
from hubquant.gguf_file import GGUFFile, Metadata
from hubquant.sources.source import SourceModel
from hubquant.vocab import Vocabulary, build_tokenizer, with_pre_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hubquant.models.load import Placement
    from hubquant.models.streamed_weights import StreamedWeights

_OF_THE_LAST_TIME = (
    "split.",
    "quantize.imatrix.",
    "hubquant.calibration_sha256",
    "hubquant.mode",
    "hubquant.recipe_sha256",
    "hubquant.version",
)
ARCHITECTURE = "general.architecture"
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True, kw_only=True)
class GGUFCheckpoint(Checkpoint):
    """The tensors of a file, in float32 whatever their type."""

    file: GGUFFile

    def read(self, name: str) -> torch.Tensor:
        return read_tensor(self.file, name)


@dataclass(frozen=True, kw_only=True)
class GGUFSource(SourceModel):
    """A file, or a shard of one with the others beside it."""

    file: GGUFFile

    @property
    def can_offload(self) -> bool:
        return False

    @property
    def converts_tokenizer(self) -> bool:
        return False

    @property
    def stored_types(self) -> Mapping[str, str]:
        return {name: tensor.type for name, tensor in self.file.tensors.items()}

    @property
    def stored_metadata(self) -> Metadata:
        return self.metadata

    @property
    def shards(self) -> Mapping[str, int]:
        return self.file.shards

    def stored(self, conversion: Conversion) -> Callable[[str, str], torch.Tensor | None]:  # noqa: ARG002
        file = self.file
        return lambda name, type: file.data(name) if file.tensors[name].type == type else None

    @property
    def quantized_types(self) -> tuple[str, ...]:
        return tuple(sorted({tensor.type for tensor in self.file.tensors.values()} - {*FLOATS, "I32"}))

    @cached_property
    def metadata(self) -> Metadata:
        """The file's, with the pre-tokenizer that was asked for, and without the layers that are left out. Raises
        ``TokenizerError`` where there can be no such pre-tokenizer."""
        found = self.file.metadata
        if self.no_mtp:
            found = without_further(found, f"{found[ARCHITECTURE].value}.")
        return found if self.pre_tokenizer is None else with_pre_tokenizer(found, self.pre_tokenizer)

    @property
    def lasting_metadata(self) -> Metadata:
        """Without what an earlier quantization wrote of itself."""
        return {k: v for k, v in self.metadata.items() if not k.startswith(_OF_THE_LAST_TIME)}

    @property
    def float_type(self) -> str:
        """Of matrices that stay floats."""
        matrices = [tensor.type for tensor in self.file.tensors.values() if len(tensor.shape) > 1]
        floats = [type for type in matrices if type in FLOATS]
        return floats[0] if floats else "F16" if self.quantized_types else "F32"

    def conversion(self) -> Conversion:
        """Raises ``GGUFError`` for a file that is no model."""
        if ARCHITECTURE not in self.file.metadata:
            raise GGUFError(
                "the file is no model", why="it has no general.architecture", hint="name the GGUF file of a model"
            )
        name = str(self.file.metadata[ARCHITECTURE].value)
        try:
            architecture, config = read_config(self.file)
            taps, cannot_run = architecture.taps(config), architecture.cannot_run
            embeds = not architecture.generates or f"{name}.pooling_type" in self.file.metadata
        except HubquantError as error:
            taps, cannot_run, embeds = {}, str(error), False
        tensors = sorted(self.file.tensors.values(), key=lambda tensor: file_order(tensor.name))
        n_blocks = integer(self.metadata, f"{name}.{BLOCKS}") or 0
        if self.no_mtp:
            tensors = [tensor for tensor in tensors if file_order(tensor.name)[0] < n_blocks]
        return Conversion(
            name,
            _hparams(self.metadata, name),
            self.lasting_metadata,
            tuple(Bundle((tensor.name,), {tensor.name: tensor.shape}) for tensor in tensors),
            taps,
            self.float_type,
            cannot_run=cannot_run,
            embeds=embeds,
        )

    def general_metadata(self, shapes: Mapping[str, tuple[int, ...]]) -> Metadata:  # noqa: ARG002
        """None: the file has these keys already."""
        return {}

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return build_tokenizer(Vocabulary.from_metadata(self.metadata))

    def load(self, placement: Placement | None = None, device: Device = "auto") -> PreTrainedModel:  # noqa: ARG002
        return load_model(self.file, chosen_device(device))

    def open_weights(self, device: Device = "auto") -> StreamedWeights:
        from hubquant.convert.blocks import open_file

        return open_file(self.file, device)


def open_gguf(path: Path) -> GGUFSource:
    """Raises ``GGUFError`` for anything that is not a sound GGUF file or a complete set of shards."""
    file = GGUFFile.open(path)
    states = [part.stat() for part in file.paths]
    tensors = {
        tensor.name: TensorInfo(tensor.name, tensor.type, tensor.shape, path.name, 0, tensor.nbytes)
        for tensor in file.tensors.values()
    }
    return GGUFSource(
        name=_SHARD.sub("", path.stem),
        id=None,
        revision="local",
        folder=path.parent,
        checkpoint=GGUFCheckpoint({}, tensors, path.parent, file=file),
        card=_card(file.metadata),
        identity={
            "model": path.name,
            "state": " ".join(f"{state.st_size}-{state.st_mtime_ns}" for state in states),
        },
        file=file,
    )


def _card(metadata: Metadata) -> dict[str, object]:
    """What the file says of its licence, its languages and its model, as a model card does."""
    known = {"license": "license", "license_name": "license.name", "license_link": "license.link"}
    lists = {"language": "languages", "tags": "tags"}
    found = {name: metadata.get(f"general.{key}") for name, key in (known | lists).items()}
    card: dict[str, object] = {
        name: list(kv.value) if isinstance(kv.value, tuple) else kv.value for name, kv in found.items() if kv
    }
    addresses = [metadata.get(f"general.{key}.repo_url") for key in ("source", "base_model.0")]
    models = [str(kv.value).removeprefix(HUB) for kv in addresses if kv]
    return {**card, "base_model": models[0]} if models else card


def _hparams(metadata: Metadata, architecture: str) -> dict[str, int]:
    keys = {
        "n_layer": BLOCKS,
        "n_layer_nextn": AHEAD,
        "n_head": "attention.head_count",
        "n_head_kv": "attention.head_count_kv",
        "n_embd": "embedding_length",
        "n_ff": "feed_forward_length",
        "n_expert": "expert_count",
    }
    found = {name: metadata.get(f"{architecture}.{key}") for name, key in keys.items()}
    # where a size differs between layers, llama-quantize goes by the first
    values = {name: kv.value[:1] if isinstance(kv.value, tuple) else (kv.value,) for name, kv in found.items() if kv}
    return {name: next((v for v in values.get(name, ()) if isinstance(v, int)), 0) for name in found}

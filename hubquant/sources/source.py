"""Where a model comes from: a Hub repository, a local folder, the demo model in the package, or a GGUF file.

Opening a source reads metadata only: config, tokenizer files and headers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.packed import quantized_before
from hubquant.convert.conversion import Conversion, check_copies, plan_conversion
from hubquant.gguf_file import Metadata
from hubquant.recent import Recent
from hubquant.recipe.schema import ModelReference

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hubquant.devices import Device
    from hubquant.hub.pull import RemoteModel
    from hubquant.models.load import Placement
    from hubquant.models.streamed_weights import StreamedWeights

_conversions: Recent[tuple[Hashable, ...], Conversion] = Recent(8)  # one may hold hundreds of thousands of tokens


@dataclass(frozen=True)
class SourceModel:
    """``identity`` is what every artifact made from these weights depends on, its "model" part is the same on every
    machine. ``folder`` holds the weights once ``remote`` is None. ``pre_tokenizer`` stands in the place of that which
    would be recognised, and with ``no_mtp`` layers that predict further tokens are left out. ``component`` is what it
    is called in the diffusers pipeline that it is a part of, if so."""

    name: str
    id: str | None
    revision: str
    folder: Path
    checkpoint: Checkpoint
    card: Mapping[str, Any]
    identity: Mapping[str, str]
    remote: RemoteModel | None = None
    weight_files: tuple[str, ...] = ()
    download_bytes: int = 0
    pre_tokenizer: str | None = None
    no_mtp: bool = False
    component: str = ""

    @property
    def content(self) -> tuple[Hashable, ...]:
        """All that what is read of it depends on."""
        place = () if self.id else (str(self.folder.resolve()),)
        return (*sorted(self.identity.items()), *place, self.pre_tokenizer, self.no_mtp)

    @property
    def pulls(self) -> tuple[tuple[RemoteModel, Sequence[str]], ...]:
        """Repositories of which files have to be downloaded."""
        return ((self.remote, self.weight_files),) if self.remote else ()

    def on_this_machine(self) -> SourceModel:
        """The same when these were downloaded."""
        if self.remote is None:
            return self
        from hubquant.hub.cache import snapshot_folder

        place = snapshot_folder(self.remote.id, self.remote.revision)
        return replace(self, folder=place, checkpoint=self.checkpoint.with_folder(place), remote=None)

    def given(self) -> dict[str, Any]:
        """What a source of another kind that is made of this one is given, but for what differs."""
        return {each.name: getattr(self, each.name) for each in fields(SourceModel)}

    def reference(self, component: str | None) -> ModelReference | None:
        """What names exactly this model on the Hub, if it is there."""
        return ModelReference(id=self.id, revision=self.revision, component=component) if self.id else None

    @property
    def model_folder(self) -> Path:
        """With config.json."""
        return self.folder

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder

    @property
    def can_offload(self) -> bool:
        """Whether accelerate can put weights of the loaded model where there is room."""
        return True

    @property
    def bytes_of_weight(self) -> float:
        """That a weight of the loaded model takes on a CPU, on average."""
        from hubquant.models.load import bytes_of_weight

        return bytes_of_weight(self.checkpoint)

    @property
    def converts_tokenizer(self) -> bool:
        """Whether the vocabulary becomes GGUF's here, and so has to prove itself in llama.cpp."""
        return True

    @property
    def names_as(self) -> str:
        """What tells its files from those of other names or another component."""
        return ""

    @property
    def quantized_types(self) -> tuple[str, ...]:
        """What the weights were quantized to before, if that lost something."""
        from hubquant.convert.plain import plain_checkpoint

        return quantized_before(plain_checkpoint(self.checkpoint).tensors)

    def conversion(self) -> Conversion:
        """What becomes of the weights; see :func:`plan_conversion`."""

        def make() -> Conversion:
            return plan_conversion(
                self.tokenizer_folder, self.checkpoint, pre_tokenizer=self.pre_tokenizer, no_mtp=self.no_mtp
            )

        conversion = make() if self.id is None else _conversions.get(self.content, make)
        if self.checkpoint.folder is not None:
            check_copies(conversion, self.checkpoint)
        return conversion

    @property
    def stored_types(self) -> Mapping[str, str]:
        """Of the tensors of the file that :meth:`stored` has."""
        return {}

    @property
    def stored_metadata(self) -> Metadata:
        """All keys of the file that :meth:`stored` is of."""
        return {}

    @property
    def shards(self) -> Mapping[str, int] | None:
        """The number of the shard that each tensor of that file is in; None where there is no file."""
        return None

    def stored(self, conversion: Conversion) -> Callable[[str, str], torch.Tensor | None]:
        """What gives the bytes that the source itself has of a tensor of the file in a type, uint8 [rows, row_bytes],
        or None; by their names. ``conversion`` is that of this source."""
        from hubquant.convert.stored_blocks import stored_blocks

        return stored_blocks(conversion, self.checkpoint)

    def general_metadata(self, shapes: Mapping[str, tuple[int, ...]]) -> Metadata:
        """The keys that come before those of the conversion, of a file with tensors of these ``shapes``."""
        from hubquant.convert.rules.general import experts_of, general_metadata

        n_experts, n_expert_parameters = experts_of(shapes)
        return general_metadata(
            self.model_folder,
            self.card,
            self.full_name,
            sum(map(math.prod, shapes.values())),
            n_experts=n_experts,
            n_expert_parameters=n_expert_parameters,
            quantized_by="hubquant",
        )

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own, which gives a text the tokens that llama.cpp will."""
        from hubquant.models import load_tokenizer
        from hubquant.vocab.gemma4 import begin_with_bos, is_gemma4

        tokenizer = load_tokenizer(self.tokenizer_folder)
        return begin_with_bos(tokenizer) if is_gemma4(self.checkpoint.config) else tokenizer

    def load(self, placement: Placement | None = None, device: Device = "auto") -> PreTrainedModel:
        """The model in memory; the weights must be on disk."""
        from hubquant.convert.plain import load_plain

        return load_plain(self.checkpoint, self.model_folder, device, placement)

    def open_weights(self, device: Device = "auto") -> StreamedWeights:
        """The model to be read block by block; the weights must be on disk."""
        from hubquant.convert.blocks import open_checkpoint

        return open_checkpoint(self.checkpoint, device)

    @property
    def full_name(self) -> str:
        """With its owner where it is on the Hub."""
        return self.id or self.name

    @property
    def exact_revision(self) -> str:
        """Of a folder, the state of its files."""
        return self.revision if self.id else self.identity["state"]

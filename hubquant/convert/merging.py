"""A base model whose weights a LoRA adapter of peft changes while they are read, as its merge_and_unload() does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.headers import FLOATS, TensorInfo, listed
from hubquant.convert.lora import (
    BY_PEFT,
    FACTOR,
    WRAPPED,
    in_base,
    read_pairs,
    read_strength,
)
from hubquant.convert.operations import Transpose
from hubquant.convert.plain import plain_checkpoint
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.units import counted

if TYPE_CHECKING:
    import torch

Read = Callable[[TensorInfo], "torch.Tensor"]
_UNSUPPORTED = {
    "lora_bias": "its B has a bias of its own",
    "target_parameters": "adapters of parameters that are no module's weight are not read yet",
    "trainable_token_indices": "single rows of the embedding are not read yet",
    "layer_replication": "the adapted model has more layers than its base",
    "megatron_config": "its layers are not those of transformers",
    "use_qalora": "its A is applied to pooled inputs",
    "alora_invocation_tokens": "an adapter that starts at some tokens is no other model",
    "arrow_config": "it chooses among several adapters",
}
_MAGNITUDE = re.compile(r"(.+)\.lora_magnitude_vector(\.weight)?")
_WRAPPED = re.compile(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)")


@dataclass(frozen=True)
class LowRankChange:
    """``scale`` times B A is added to a weight [rows, columns], or where it is ``turned`` its transpose. With DoRA the
    length of each output's row becomes its ``magnitude``. ``start`` is the base's weight, where that was saved too, as
    peft does with embeddings."""

    a: TensorInfo
    b: TensorInfo
    scale: float
    turned: bool
    magnitude: TensorInfo | None = None
    start: TensorInfo | None = None

    def of(self, x: torch.Tensor, read: Read) -> torch.Tensor:
        import torch

        x = read(self.start).to(x.dtype) if self.start else x
        change = (read(self.b).float() @ read(self.a).float()) * self.scale
        changed = (x.T if self.turned else x).float() + change
        if self.magnitude is not None:
            changed *= (read(self.magnitude).float().flatten() / torch.linalg.norm(changed, dim=1))[:, None]
        return (changed.T if self.turned else changed).to(x.dtype).contiguous()


@dataclass(frozen=True)
class Whole:
    """A weight that was trained as a whole, and takes the place of the base's."""

    info: TensorInfo

    def of(self, x: torch.Tensor, read: Read) -> torch.Tensor:
        return read(self.info).to(x.dtype)


Change = LowRankChange | Whole


@dataclass(frozen=True)
class MergedCheckpoint(Checkpoint):
    """``base`` as it is stored, whose weights the ``changes`` of the ``adapter`` are made to: by the names of
    :func:`plain_checkpoint`, which is what reads it."""

    is_safetensors: ClassVar[bool] = False

    base: Checkpoint = field(default_factory=lambda: Checkpoint({}, {}))
    adapter: Checkpoint = field(default_factory=lambda: Checkpoint({}, {}))
    changes: Mapping[str, Change] = field(default_factory=dict)

    @classmethod
    def of(cls, base: Checkpoint, adapter: Checkpoint, changes: Mapping[str, Change], note: str) -> Self:
        notes = (*base.notes, note)
        return cls(base.config, base.tensors, base.folder, notes, base.base_model, base, adapter, changes)

    def with_folders(self, base: Path | None, adapter: Path | None) -> Self:
        """With weights on this machine: of both they lie in other folders."""
        stored = self.base.with_folder(base) if base else self.base
        changing = self.adapter.with_folder(adapter) if adapter else self.adapter
        return replace(self, folder=stored.folder, base=stored, adapter=changing)

    def read(self, name: str) -> torch.Tensor:
        x, change = super().read(name), self.changes.get(name)
        return x if change is None else change.of(x, lambda info: self.adapter.read(info.name))

    def read_rows(self, name: str, rows: Sequence[int]) -> torch.Tensor:
        return self.read(name)[list(rows)] if name in self.changes else super().read_rows(name, rows)

    def read_blocks(self, name: str) -> torch.Tensor | None:
        return None if name in self.changes else super().read_blocks(name)

    def _stored(self, info: TensorInfo, dtypes: tuple[str, ...]) -> torch.Tensor:
        return self.base._stored(info, dtypes)


def plan_changes(settings: Mapping[str, Any], tensors: Mapping[str, TensorInfo], base: Checkpoint) -> dict[str, Change]:
    """From adapter_config.json, the headers of the adapter and those of ``base``: what becomes of weights, by the names
    of a plain checkpoint.

    Raises ``NotSupportedYet`` for adapters that change more than weights, ``CheckpointError`` for those that are not
    sound or do not fit the base.
    """
    strength = read_strength(settings)
    for name, why in _UNSUPPORTED.items():
        if settings.get(name):
            raise NotSupportedYet(f"{name} in adapter_config.json", why=why, hint=BY_PEFT)
    magnitudes = {match[1]: info for name, info in tensors.items() if (match := _MAGNITUDE.fullmatch(name))}
    factors = {name: info for name, info in tensors.items() if FACTOR.fullmatch(name)}
    pairs = read_pairs(factors, BY_PEFT) if factors else {}
    whole = {
        _WRAPPED.sub("", name): info
        for name, info in tensors.items()
        if name not in factors and not _MAGNITUDE.fullmatch(name)
    }
    changed = whole | {f"{module}.weight": pair[0] for module, pair in pairs.items()}
    architecture, config, names = in_base(base.config, changed)
    stored = plain_checkpoint(base).tensors
    if unknown := [name for name in names.values() if name not in stored]:
        raise CheckpointError(
            f"{counted(len(unknown), 'weight')} that the adapter changes {'is' if len(unknown) == 1 else 'are'} not in "
            f"the base: {listed(unknown)}",
            why=f"it is a {architecture.restored_as} model",
            hint="name the model that the adapter was trained on: --merge BASE",
        )
    bundles = architecture.reading(stored, config).bundles(config)
    transposing = (x for x in bundles if any(isinstance(operation, Transpose) for operation in x.operations))
    turned = {source for bundle in transposing for source in bundle.sources}
    changes: dict[str, Change] = {}
    for module, (a, b, embedding) in pairs.items():
        name, rank = names[a.name], a.shape[0]
        if embedding and module in magnitudes:
            raise NotSupportedYet(f"DoRA of {listed([name])}", why="it is an embedding", hint=BY_PEFT)
        scale = strength.of(module.removeprefix(WRAPPED), rank) / rank
        is_turned, start = embedding or name in turned, whole.pop(f"{module}.weight", None)
        changes[name] = LowRankChange(a, b, scale, is_turned, magnitudes.get(module), start)
        rows, columns = b.shape[0], a.shape[1]
        for found in ((columns, rows) if is_turned else (rows, columns), *([start.shape] if start else [])):
            _check_shape(name, found, stored[name].shape)
        if (magnitude := magnitudes.get(module)) and magnitude.shape not in ((rows,), (rows, 1), (1, rows)):
            _check_shape(magnitude.name, magnitude.shape, (rows,))
    for info in whole.values():
        if info.dtype not in FLOATS:
            raise NotSupportedYet(f"adapters stored as {info.dtype}", hint="save it in F32, F16 or BF16")
        _check_shape(names[info.name], info.shape, stored[names[info.name]].shape)
        changes[names[info.name]] = Whole(info)
    return changes


def _check_shape(name: str, found: tuple[int, ...], has: tuple[int, ...]) -> None:
    if found != has:
        raise CheckpointError(
            f"the adapter changes {listed([name])} as if it were {list(found)}",
            why=f"in the base it is {list(has)}",
            hint="name the model that the adapter was trained on: --merge BASE",
        )

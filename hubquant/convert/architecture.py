"""The words in which an architecture is declared: modules with their shapes, and what its tensors are made from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from hubquant.convert.operations import Dimensions, Operation, OperationFor
from hubquant.convert.rules import Rule

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

Constants = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Module:
    """A module of the transformers model that owns a weight and perhaps a bias.

    ``shape`` holds names of dimensions. ``bias`` is True, False or the setting that turns it on. ``linear`` modules
    multiply activations, which an importance matrix observes. The weight of a module ``tied_to`` another one is that
    other one's when the config ties embeddings. ``operations`` act on the weight and on the bias.
    """

    name: str
    shape: tuple[str, ...]
    bias: bool | str = False
    linear: bool = False
    tied_to: str | None = None
    operations: tuple[OperationFor, ...] = ()

    def has_bias(self, config: PreTrainedConfig) -> bool:
        return bool(getattr(config, self.bias, False)) if isinstance(self.bias, str) else self.bias

    def is_tied(self, config: PreTrainedConfig) -> bool:
        return self.tied_to is not None and bool(config.tie_word_embeddings)


def linear(
    name: str, rows: str, columns: str, bias: bool | str = False, operations: tuple[OperationFor, ...] = ()
) -> Module:
    return Module(name, (rows, columns), bias, linear=True, operations=operations)


def norm(name: str, size: str = "n_embd") -> Module:
    return Module(name, (size,))


@dataclass(frozen=True)
class TensorRecipe:
    """How one GGUF tensor comes from the checkpoint.

    ``sources`` are checkpoint names; a tensor without any is computed from the config: its ``values``. ``copies`` may
    be in the checkpoint as well and must then equal the source. ``shape`` is in torch order.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()
    copies: tuple[str, ...] = ()
    values: tuple[float, ...] = ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for operation in self.operations:
            x = operation.forward(x)
        return x

    def inverse(self, x: torch.Tensor) -> torch.Tensor:
        for operation in reversed(self.operations):
            x = operation.inverse(x)
        return x


def no_constants(config: PreTrainedConfig) -> Constants:  # noqa: ARG001
    return {}


@dataclass(frozen=True)
class Architecture:
    """Everything hubquant knows about one family of checkpoints.

    ``name`` is llama.cpp's, ``classes`` maps the transformers classes that it reads to their model types, and
    ``restored_as`` is the model type that a GGUF file is read back as. ``rules`` make the metadata, ``modules`` and
    ``block`` (one layer of ``blocks``) the tensors; ``ignored`` are regular expressions for checkpoint tensors that are
    no weights.
    """

    name: str
    classes: Mapping[str, str]
    restored_as: str
    rules: tuple[Rule, ...]
    dimensions: Callable[[PreTrainedConfig], Dimensions]
    modules: tuple[Module, ...]
    block: tuple[Module, ...]
    blocks: str = "model.layers"
    constants: Callable[[PreTrainedConfig], Constants] = no_constants
    ignored: tuple[str, ...] = (r"\.rotary_emb\.inv_freq$",)

    def placed(self, n_layer: int) -> Iterator[tuple[str, str, Module]]:
        """(name in transformers, name in GGUF, module) for every module, both names without ".weight"."""
        for module in self.modules:
            yield module.name, self._stems[module.name], module
        for layer in range(n_layer):
            for module in self.block:
                stem = self._stems[f"{self.blocks}.0.{module.name}"]
                yield f"{self.blocks}.{layer}.{module.name}", stem.replace("blk.0.", f"blk.{layer}."), module

    def recipes(self, config: PreTrainedConfig) -> Iterator[TensorRecipe]:
        """Every tensor of the GGUF file, in the order of the modules."""
        dimensions = self.dimensions(config)
        for name, stem, module in self.placed(dimensions["n_layer"]):
            if module.is_tied(config):
                continue
            shape = tuple(dimensions[size] for size in module.shape)
            operations = tuple(operation(dimensions) for operation in module.operations)
            copies = tuple(f"{m.name}.weight" for m in self.modules if m.tied_to == name and m.is_tied(config))
            yield TensorRecipe(f"{stem}.weight", shape, (f"{name}.weight",), operations, copies)
            if module.has_bias(config):
                yield TensorRecipe(f"{stem}.bias", shape[:1], (f"{name}.bias",), operations)
        for name, values in self.constants(config).items():
            yield TensorRecipe(name, (len(values),), values=values)

    def linear_modules(self, config: PreTrainedConfig) -> dict[str, str]:
        """Module name in transformers -> GGUF weight, for the matrices that multiply activations."""
        stems = {name: stem for name, stem, _ in self.placed(0)}
        return {
            name: f"{stems[module.tied_to] if module.tied_to and module.is_tied(config) else stem}.weight"
            for name, stem, module in self.placed(self.dimensions(config)["n_layer"])
            if module.linear
        }

    def bias_settings(self, tensors: Collection[str]) -> dict[str, bool]:
        """The settings that turn biases on, from the names of the tensors that are there."""
        return {
            module.bias: f"{stem}.bias" in tensors for _, stem, module in self.placed(1) if isinstance(module.bias, str)
        }

    @cached_property
    def _stems(self) -> Mapping[str, str]:
        """Names outside the blocks and in block 0, as the gguf package translates them."""
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == self.name)
        translate = get_tensor_name_map(arch, 1).get_name
        names = [m.name for m in self.modules] + [f"{self.blocks}.0.{m.name}" for m in self.block]
        stems = {name: translate(name) for name in names}
        if unknown := [name for name, stem in stems.items() if stem is None]:
            raise LookupError(f"gguf has no names for {unknown} of {self.name}")
        return {name: str(stem) for name, stem in stems.items()}

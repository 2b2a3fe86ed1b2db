"""The rows of an architecture's table: modules of the transformers model, and the tensors they become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from hubquant.checkpoint.headers import TensorInfo
from hubquant.convert.operations import Dimensions, Fork, Operation, OperationFor, Scale, Stack
from hubquant.models.taps.tap import ModuleInput, Tap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

Shape = tuple[int, ...]
Part = Literal["all", "first", "second"]


@dataclass(frozen=True)
class Bundle:
    """Tensors of a checkpoint (``sources``) and tensors of a GGUF file (``targets``) that hold the same numbers.

    Mostly one of each. ``copies`` may be in the checkpoint as well and must then equal the source. A bundle without
    sources is computed from the config: its ``values``, one of which stands for all. ``quantized`` sources are bytes,
    and the targets hold the same numbers only in a file that stores them as this type; ``stored`` are the operations
    that give the bytes of such a file. Shapes are in torch order.
    """

    sources: tuple[str, ...]
    targets: Mapping[str, Shape]
    operations: tuple[Operation, ...] = ()
    copies: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    quantized: str | None = None
    stored: tuple[Operation, ...] = ()

    def forward(self, tensors: list[torch.Tensor], *, stored: bool = False) -> dict[str, torch.Tensor]:
        """From the sources, in their order, to the targets by name: floats in the shapes of ``targets``, or where
        ``stored`` the bytes of the quantized type, uint8 [..., rows, row_bytes]."""
        for operation in self.stored if stored else self.operations:
            tensors = list(operation.forward(tensors))
        return dict(zip(self.targets, tensors, strict=True))

    def inverse(self, tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """From the targets, floats in the order and shapes of ``targets``, to the sources by name."""
        for operation in reversed(self.operations):
            tensors = list(operation.inverse(tensors))
        return dict(zip(self.sources, tensors, strict=True))

    def source_shapes(self) -> dict[str, Shape]:
        """What the checkpoint must hold, copies included."""
        import torch

        if not self.sources:
            return {}
        found = self.inverse([torch.empty(shape, device="meta") for shape in self.targets.values()])
        shapes = {name: tuple(x.shape) for name, x in found.items()}
        return shapes | dict.fromkeys(self.copies, next(iter(shapes.values())))


@dataclass(frozen=True)
class Place:
    """Where a row stands: outside the layers or in one of them.

    ``prefix`` goes before names in transformers ("model.layers.3."), ``block`` before names in GGUF ("blk.3."); both
    are empty outside. ``stems`` are the names that the gguf package has for modules.
    """

    config: PreTrainedConfig
    dimensions: Dimensions
    prefix: str
    block: str
    stems: Mapping[str, str]

    def shape(self, sizes: tuple[str, ...]) -> Shape:
        return tuple(self.dimensions[size] for size in sizes)

    def stem(self, module: str, chosen: str | None = None) -> str:
        """The GGUF name of a module, without ".weight": the ``chosen`` one or gguf's."""
        return self.block + chosen if chosen else self.stems[self.prefix + module]

    def operations(self, wanted: tuple[OperationFor, ...]) -> tuple[Operation, ...]:
        return tuple(operation(self.dimensions) for operation in wanted)


TapFor = Callable[[Place], Tap]
"""A table names taps before the layer and the model's dimensions are known."""


class Row(Protocol):
    """A row of the table."""

    def bundles(self, place: Place) -> Iterator[Bundle]: ...

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:
        """(weight in GGUF, where its inputs are seen in transformers) for matrices that multiply activations."""

    def bias_settings(self, place: Place) -> Iterator[tuple[str, str]]:
        """(setting, tensor in GGUF) where a setting decides whether the tensor is there."""


@dataclass(frozen=True)
class Module:
    """A module that owns a weight and perhaps a bias, each of which is one tensor in both files.

    ``shape`` holds names of dimensions and is the weight's in GGUF. ``bias`` is True, False or the setting that turns
    it on. ``tap`` is where an importance matrix sees the inputs of a weight that multiplies activations.
    ``operations`` act on the weight and on the bias. ``stem`` is the name in GGUF where the gguf package has none.
    """

    name: str
    shape: tuple[str, ...]
    bias: bool | str = False
    tap: TapFor | None = None
    operations: tuple[OperationFor, ...] = ()
    stem: str | None = None

    def has_bias(self, config: PreTrainedConfig) -> bool:
        return bool(getattr(config, self.bias, False)) if isinstance(self.bias, str) else self.bias

    def bundles(self, place: Place) -> Iterator[Bundle]:
        name, stem = place.prefix + self.name, place.stem(self.name, self.stem)
        shape, operations = place.shape(self.shape), place.operations(self.operations)
        yield Bundle((f"{name}.weight",), {f"{stem}.weight": shape}, operations)
        if self.has_bias(place.config):
            yield Bundle((f"{name}.bias",), {f"{stem}.bias": shape[:1]}, operations)

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:
        if self.tap:
            yield f"{place.stem(self.name, self.stem)}.weight", self.tap(place)

    def bias_settings(self, place: Place) -> Iterator[tuple[str, str]]:
        if isinstance(self.bias, str):
            yield self.bias, f"{place.stem(self.name, self.stem)}.bias"


class WithoutBias:
    """Rows without settings for biases."""

    def bias_settings(self, place: Place) -> Iterator[tuple[str, str]]:  # noqa: ARG002
        return iter(())


@dataclass(frozen=True)
class Tensors(WithoutBias):
    """Tensors that are no module's weight, or change their number: full names after the layer's prefix.

    ``targets`` are GGUF names after "blk.N." with the names of their dimensions, ``quantized`` the type that bytes in
    the checkpoint stand for, and ``stored`` what makes a file's bytes of them. ``taps`` are where the inputs of the
    targets are seen, in their order.
    """

    sources: tuple[str, ...]
    targets: Mapping[str, tuple[str, ...]]
    operations: tuple[OperationFor, ...] = ()
    quantized: str | None = None
    stored: tuple[OperationFor, ...] = ()
    taps: tuple[TapFor, ...] = ()

    def bundles(self, place: Place) -> Iterator[Bundle]:
        yield Bundle(
            tuple(place.prefix + source for source in self.sources),
            {place.block + name: place.shape(sizes) for name, sizes in self.targets.items()},
            place.operations(self.operations),
            quantized=self.quantized,
            stored=place.operations(self.stored),
        )

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:
        if self.taps:
            for name, tap in zip(self.targets, self.taps, strict=True):
                yield place.block + name, tap(place)


@dataclass(frozen=True)
class Where:
    """``rows`` that are there where the configuration turns a ``setting`` on."""

    setting: str
    rows: tuple[Row, ...]

    def _rows(self, place: Place) -> tuple[Row, ...]:
        return self.rows if getattr(place.config, self.setting, False) else ()

    def bundles(self, place: Place) -> Iterator[Bundle]:
        for row in self._rows(place):
            yield from row.bundles(place)

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:
        for row in self._rows(place):
            yield from row.observed(place)

    def bias_settings(self, place: Place) -> Iterator[tuple[str, str]]:
        for row in self.rows:
            yield from row.bias_settings(place)


@dataclass(frozen=True)
class Experts(WithoutBias):
    """A matrix of every expert, which GGUF holds as one stack [n_expert, rows, columns].

    ``name`` has {} in place of the expert's number; ``operations`` act on each expert's matrix. ``tap`` is where the
    inputs of all of them are seen. ``stack`` is what transformers has in memory in their place, where that is
    [n_expert, rows, columns] too: its name, and which of its rows these are.
    """

    name: str
    rows: str
    columns: str
    tap: TapFor
    operations: tuple[OperationFor, ...] = ()
    stem: str | None = None
    stack: tuple[str, Part] | None = None

    def taken_apart(self, place: Place, tensors: Mapping[str, TensorInfo]) -> tuple[str, dict[str, TensorInfo]] | None:
        """The stack's name and each expert's matrix [rows, columns], which is a part of its bytes; None where there is
        no stack [n_expert, rows or 2 * rows, columns] of floats."""
        if self.stack is None or place.prefix + self.stack[0] not in tensors:
            return None
        name, part = self.stack
        whole, n_experts = tensors[place.prefix + name], place.dimensions["n_expert"]
        rows, columns = place.shape((self.rows, self.columns))
        n_rows, first = (rows, 0) if part == "all" else (2 * rows, rows if part == "second" else 0)
        if whole.shape != (n_experts, n_rows, columns) or whole.scale:
            return None
        row_bytes = whole.nbytes // (n_experts * n_rows)
        names = [f"{place.prefix}{self.name.format(i)}.weight" for i in range(n_experts)]
        begins = [whole.begin + (i * n_rows + first) * row_bytes for i in range(n_experts)]
        return whole.name, {
            each: replace(whole, name=each, shape=(rows, columns), begin=begin, end=begin + rows * row_bytes)
            for each, begin in zip(names, begins, strict=True)
        }

    def bundles(self, place: Place) -> Iterator[Bundle]:
        stem = place.stem(self.name.replace(".{}", ""), self.stem)
        yield Bundle(
            tuple(f"{place.prefix}{self.name.format(i)}.weight" for i in range(place.dimensions["n_expert"])),
            {f"{stem}.weight": place.shape(("n_expert", self.rows, self.columns))},
            (*place.operations(self.operations), Stack()),
        )

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:
        yield f"{place.stem(self.name.replace('.{}', ''), self.stem)}.weight", self.tap(place)


@dataclass(frozen=True)
class Embeddings:
    """The token embedding and the output layer, which are one matrix when the config ties them.

    ``module`` is the output layer in transformers, which checkpoints may call otherwise. With ``both`` llama.cpp loads
    no file without an output layer: a matrix that the config ties is written twice.
    """

    embedding: str = "model.embed_tokens"
    output: str = "lm_head"
    output_bias: bool = False
    module: str = "lm_head"
    both: bool = False

    def bundles(self, place: Place) -> Iterator[Bundle]:
        shape = place.shape(("n_vocab", "n_embd"))
        embedding, output = f"{self.embedding}.weight", f"{self.output}.weight"
        if not _tied(place):
            yield Bundle((embedding,), {"token_embd.weight": shape})
            yield Bundle((output,), {"output.weight": shape})
        elif self.both:
            targets = {"token_embd.weight": shape, "output.weight": shape}
            yield Bundle((embedding,), targets, (Fork(2 * (Scale((1.0,)),)),), copies=(output,))
        else:
            yield Bundle((embedding,), {"token_embd.weight": shape}, copies=(output,))
        if self.output_bias:
            yield Bundle((f"{self.output}.bias",), {"output.bias": shape[:1]})

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:
        yield "token_embd.weight" if _tied(place) and not self.both else "output.weight", ModuleInput(self.module)

    def bias_settings(self, place: Place) -> Iterator[tuple[str, str]]:  # noqa: ARG002
        return iter(())


def _tied(place: Place) -> bool:
    return bool(place.config.tie_word_embeddings)


def inputs_of(module: str) -> TapFor:
    """What a module of the layer is called with."""
    return lambda place: ModuleInput(place.prefix + module)


def linear(
    name: str,
    rows: str,
    columns: str,
    bias: bool | str = False,
    operations: tuple[OperationFor, ...] = (),
    stem: str | None = None,
    computing: str | None = None,
) -> Module:
    """A weight [rows, columns] that multiplies what its own module is called with, or the one ``computing`` where
    transformers calls it otherwise. ``rows`` and ``columns`` name dimensions; the rest is as in :class:`Module`."""
    return Module(name, (rows, columns), bias, inputs_of(computing or name), operations, stem)


def norm(name: str, size: str = "n_embd", bias: bool | str = False, stem: str | None = None) -> Module:
    """A weight [size] that multiplies no activations as a matrix does. ``size`` names a dimension."""
    return Module(name, (size,), bias, stem=stem)

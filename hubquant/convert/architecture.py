"""What is known about one family of checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.codings.floats4 import FACTOR
from hubquant.checkpoint.headers import TensorInfo
from hubquant.convert.ahead import Ahead, names_behind, sources_of, targets_of
from hubquant.convert.factored import ARCHITECTURES, factored
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rule import Numbers, Rule, Settings, full_key
from hubquant.convert.tables import Bundle, Embeddings, Experts, Module, Place, Row
from hubquant.gguf_file.metadata import Metadata
from hubquant.models.taps.tap import Tap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

Constants = Mapping[str, tuple[float, ...]]
_TIED = "tie_word_embeddings"
_TOKEN_TABLES = {"token_embd.weight", "per_layer_token_embd.weight"}
Block = Callable[["PreTrainedConfig", int], tuple[Row, ...]]


def every_layer(*rows: Row) -> Block:
    """The same rows in each layer."""
    return lambda _config, _layer: rows


def no_constants(config: PreTrainedConfig) -> Constants:  # noqa: ARG001
    return {}


def nothing_more(tensors: Mapping[str, torch.Tensor], settings: Settings) -> Mapping[str, Any]:  # noqa: ARG001
    return {}


def nothing_unused(config: PreTrainedConfig) -> Collection[str]:  # noqa: ARG001
    return ()


def any_settings(settings: Settings) -> bool:  # noqa: ARG001
    return True


def as_it_is(settings: Settings) -> Settings:
    return settings


@dataclass(frozen=True)
class Architecture:
    """Everything hubquant knows about one family of checkpoints.

    ``name`` is llama.cpp's, ``classes`` maps the transformers classes that it reads to their model types, and
    ``restored_as`` is the model type that a GGUF file is read back as. ``rules`` make the metadata; the rows outside
    the layers and those of each ``block``, a layer of ``blocks``, make the tensors. ``ignored`` are regular expressions
    for checkpoint tensors that are no weights. ``ahead`` tells of layers after the last one, which predict further
    tokens, and ``further`` are the rows of those that a checkpoint or file has (:meth:`reading`). ``marker`` is a
    metadata key, a key and its value, or a tensor, that tells files of this architecture from others that llama.cpp
    calls by the same name. ``renames`` bring the names of older checkpoints to those of today
    (:meth:`Checkpoint.renamed`). ``quantized`` are the methods of quantization that its rows read. ``told_by_tensors``
    gives settings that a GGUF file tells only by its tensors, from these and the
    settings known before. ``translate`` makes a config.json that transformers knows from one that it does not.
    ``otherwise`` is the
    block of checkpoints that hold the same weights in other tensors, one of which is named before it.
    ``layout`` are the settings that only its rows read, beside those for biases, and ``without_effect`` those that
    change nothing in this family. ``translated`` are the names that only ``translate`` knows.
    ``unused`` names tensors that checkpoints may hold although no layer computes with them.
    ``takes`` tells by config.json which of several architectures with the same class it is for; the first counts.
    ``beside`` are the factors of weights that a checkpoint or file has.
    ``generates`` is False for encoders, which predict no next token; ``own_code`` is True where transformers lacks
    the model's code, or runs it beside another alone; ``drafts`` is True for models that llama.cpp runs only beside a
    target.
    """

    name: str
    classes: Mapping[str, str]
    restored_as: str
    rules: tuple[Rule, ...]
    dimensions: Callable[[PreTrainedConfig], Dimensions]
    outside: tuple[Row, ...]
    block: Block
    blocks: str = "model.layers"
    constants: Callable[[PreTrainedConfig], Constants] = no_constants
    ignored: tuple[str, ...] = (r"\.rotary_emb\.inv_freq$",)
    ahead: Ahead | None = None
    further: tuple[tuple[Row, ...], ...] = ()
    quantized: tuple[str, ...] = ()
    marker: str | tuple[str, int] | None = None
    renames: tuple[tuple[str, str], ...] = ()
    told_by_tensors: Callable[[Mapping[str, torch.Tensor], Settings], Mapping[str, Any]] = nothing_more
    translate: Callable[[Settings], Settings] = as_it_is
    unused: Callable[[PreTrainedConfig], Collection[str]] = nothing_unused
    takes: Callable[[Settings], bool] = any_settings
    generates: bool = True
    own_code: bool = False
    drafts: bool = False
    otherwise: tuple[str, Block] | None = None
    layout: tuple[str, ...] = ()
    without_effect: tuple[str, ...] = ()
    translated: tuple[str, ...] = ()
    beside: frozenset[str] = frozenset()

    @property
    def cannot_run(self) -> str | None:
        """Why a checkpoint can be neither calibrated nor evaluated, if so."""
        if self.drafts:
            return "a drafter computes from the states of its target, beside which llama.cpp runs it"
        return "transformers lacks its code, and hubquant never runs remote code" if self.own_code else None

    def reading(self, tensors: Collection[str], config: PreTrainedConfig, *, ahead: bool = True) -> Architecture:
        """The architecture with the block that checkpoints with these tensors have, and unless ``ahead`` is False with
        the layers behind the last that they hold whole."""
        block = self.block if self.otherwise is None or self.otherwise[0] not in tensors else self.otherwise[1]
        kept = self.ahead if ahead and self.ahead and not self.ahead.left_out(config) else None
        further = kept.whole_layers(partial(self.place_ahead, config), tensors, sources_of) if kept else ()
        return replace(self, block=block, further=further, beside=self._factors(tensors, FACTOR))

    def reading_file(self, tensors: Collection[str], config: PreTrainedConfig) -> Architecture:
        """The architecture with the layers behind the last that a file with these tensors holds whole."""
        told = replace(self, beside=self._factors(tensors, ".scale"))
        if self.ahead is None:
            return told
        return replace(told, further=self.ahead.whole_layers(partial(self.place_ahead, config), tensors, targets_of))

    def _factors(self, tensors: Collection[str], ending: str) -> frozenset[str]:
        """Those of a weight with a bias do not count: llama.cpp has no place for both in feed-forward networks."""
        if self.name not in ARCHITECTURES:
            return frozenset()
        found = {x for x in tensors if x.endswith(ending)}
        biased = {f"{x.removesuffix('bias')}weight{ending}" for x in tensors if x.endswith(".bias")}
        return frozenset(found - biased)

    @property
    def output(self) -> str | None:
        """What checkpoints call the output layer, None where there is none."""
        return next((row.output for row in self.outside if isinstance(row, Embeddings)), None)

    @property
    def embedding(self) -> str | None:
        """What checkpoints call the embedding that the output layer may share."""
        return next((row.embedding for row in self.outside if isinstance(row, Embeddings)), None)

    def renames_for(self, names: Collection[str]) -> tuple[tuple[str, str], ...]:
        """``renames``, and for a base class saved alone the name that it has within the whole model."""
        base, *rest = self.blocks.split(".")
        alone = not any(name.startswith(f"{base}.") for name in names)
        if not rest or not alone or not any(name.startswith(f"{'.'.join(rest)}.") for name in names):
            return self.renames
        return (*self.renames, (rf"^(?!{re.escape(str(self.output))}\.)", f"{base}."))

    def with_single_experts(
        self, config: PreTrainedConfig, tensors: Mapping[str, TensorInfo]
    ) -> Mapping[str, TensorInfo]:
        """The headers ``tensors`` with stacks of experts [n_expert, rows, columns], which transformers has in memory,
        taken apart into matrices [rows, columns] where the table wants each."""
        result = dict(tensors)
        for row, place in self.placed(config) if any(len(info.shape) == 3 for info in tensors.values()) else ():
            if isinstance(row, Experts) and (found := row.taken_apart(place, tensors)):
                result.pop(found[0], None)
                result |= found[1]
        return result

    def placed(self, config: PreTrainedConfig) -> Iterator[tuple[Row, Place]]:
        """Every row of the table where it stands, for each layer again."""
        dimensions = self.dimensions(config)
        n_layer = dimensions["n_layer"]
        stems = _Stems(self.name, n_layer)
        for row in self.outside:
            yield row, Place(config, dimensions, "", "", stems)
        for layer in range(n_layer):
            place = Place(config, dimensions, f"{self.blocks}.{layer}.", f"blk.{layer}.", stems)
            for row in self.block(config, layer):
                yield row, place

    def bundles_ahead(self, config: PreTrainedConfig) -> Iterator[Bundle]:
        """The tensors of the layers behind the last."""
        for i, rows in enumerate(self.further):
            place = self.place_ahead(config, i)
            for row in rows:
                yield from row.bundles(place)

    def bundles(self, config: PreTrainedConfig) -> Iterator[Bundle]:
        """Every tensor of the GGUF file, in the order of the table."""
        for row, place in self.placed(config):
            for bundle in row.bundles(place):
                yield factored(bundle, self.beside) if self.beside else bundle
        yield from self.bundles_ahead(config)
        for name, values in self.constants(config).items():
            yield Bundle((), {name: (len(values),)}, values=values)

    def token_tables(self, config: PreTrainedConfig) -> tuple[str, ...]:
        """The checkpoint's matrices of which a token takes its row."""
        made = (bundle.sources for bundle in self.bundles(config) if bundle.targets.keys() & _TOKEN_TABLES)
        return tuple(name for sources in made for name in sources)

    def taps(self, config: PreTrainedConfig) -> dict[str, Tap]:
        """GGUF weight -> where its inputs are seen in transformers, for the matrices that multiply activations."""
        return {weight: tap for row, place in self.placed(config) for weight, tap in row.observed(place)}

    def reads(self, config: PreTrainedConfig) -> set[str]:
        """The settings that decide what is written."""
        layers = (self.block(config, layer) for layer in (0, self.dimensions(config)["n_layer"] - 1))
        modules = (row for row in chain(self.outside, *layers) if isinstance(row, Module))
        biases = {row.bias for row in modules if isinstance(row.bias, str)}
        return {_TIED, *self.layout, *biases, *(name for rule in self.rules for name in rule.reads)}

    def notes(self, config: PreTrainedConfig) -> tuple[str, ...]:
        """Where the file computes otherwise than the checkpoint."""
        return tuple(note for rule in self.rules for note in rule.notes(config))

    def marks(self, metadata: Metadata, tensors: Collection[str]) -> bool:
        """Whether the ``marker`` is in a file's metadata, or among the names of its ``tensors``."""
        key, value = self.marker if isinstance(self.marker, tuple) else (self.marker, None)
        return key in tensors or (key in metadata and value in (None, metadata[key].value))

    def numbers(self, config: PreTrainedConfig) -> dict[str, Numbers]:
        """The tensors of a checkpoint that are lists in the metadata, by their keys."""
        found = (item for rule in self.rules for item in rule.numbers(config).items())
        return {full_key(self.name, key): numbers for key, numbers in found}

    def sizes(self, config: PreTrainedConfig) -> Dimensions:
        """The dimensions with the layers behind the last."""
        found, n_ahead = self.dimensions(config), len(self.further)
        return {**found, "n_layer": found["n_layer"] + n_ahead, "n_layer_nextn": n_ahead}

    def behind(self, config: PreTrainedConfig, names: Collection[str]) -> dict[int, dict[str, str]]:
        """A checkpoint's tensors of layers after the last; see :func:`names_behind`."""
        return names_behind(self.blocks, self.dimensions(config)["n_layer"], names)

    def place_ahead(self, config: PreTrainedConfig, i: int) -> Place:
        """Where the rows of a layer behind the last stand, of which ``i`` counts from 0."""
        sizes = self.dimensions(config)
        layer = sizes["n_layer"] + i
        wider = {**sizes, "n_embd_2": 2 * sizes["n_embd"]}
        return Place(config, wider, f"{self.blocks}.{layer}.", f"blk.{layer}.", _Stems(self.name, layer + 1))

    def bias_settings(self, config: PreTrainedConfig, tensors: Collection[str]) -> dict[str, bool]:
        """The settings that turn biases on, from the names of the tensors that are there."""
        return {
            setting: name in tensors for row, place in self.placed(config) for setting, name in row.bias_settings(place)
        }


_NAMED_LIKE = {
    "cohere2moe": "exaone-moe",
    "deepseek32": "glm-dsa",
    "deepseek4": "glm-dsa",
    "dflash": "qwen3",
    "eagle3": "llama",
    "gemma4-assistant": "gemma4",
    "granite_swa": "granite",
    "hy_v3": "exaone-moe",
    "laguna": "exaone-moe",
    "mellum": "qwen3moe",
    "minimax-01": "exaone-moe",
    "minimax-m3": "exaone-moe",
}
"""Families that the gguf package does not know yet, and one that it knows whose tensors have the same names."""


class _Stems(Mapping[str, str]):
    """Module names of transformers as the gguf package translates them, without ".weight"."""

    def __init__(self, architecture: str, n_layer: int) -> None:
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        self._architecture = architecture
        known = _NAMED_LIKE.get(architecture, architecture)
        arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == known)
        self._map = get_tensor_name_map(arch, n_layer)

    def __getitem__(self, module: str) -> str:
        stem: str | None = self._map.get_name(module)
        if stem is None:
            raise LookupError(f"gguf has no name for {module} of {self._architecture}")
        return stem

    def __iter__(self) -> Iterator[str]:
        return iter(self._map.mapping)

    def __len__(self) -> int:
        return len(self._map.mapping)

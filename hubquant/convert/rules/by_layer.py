"""Rules of decoders whose layers have a window, or positions, as lists in the metadata tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import (
    Numbers,
    Rule,
    Settings,
    check_count,
    check_list,
    integer,
    is_number,
    number,
    out_of_range,
)
from hubquant.convert.rules.windows import FULL, SLIDING
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import KV, Metadata, booleans, f32s, i32s, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MOST_LAYERS = 10_000
PATTERN = "attention.sliding_window_pattern"
_ROTATED = "attention.rope_pattern"
_OF_ROPE = ("rope.dimension_count", "rope.freq_base")


@dataclass(frozen=True)
class WindowsByLayer(Rule):
    """Which layers see the last ``sliding_window`` tokens; the others see the whole text.

    Without a window in any layer llama.cpp loads no file, unless it is ``optional`` in the architecture.
    """

    optional: bool = False
    reads = ("sliding_window", "layer_types")

    def check(self, settings: Settings) -> None:
        check_count(settings, "sliding_window", (1 << 31) - 1)
        layers = settings.get("layer_types")
        if layers is not None and not (isinstance(layers, list) and {*map(str, layers)} <= {FULL, SLIDING}):
            raise out_of_range("layer_types", layers, f"a list of {FULL} and {SLIDING}")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if len(config.layer_types) != config.num_hidden_layers:
            raise out_of_range("layer_types", config.layer_types, f"{config.num_hidden_layers} kinds of layers")
        if SLIDING not in config.layer_types:
            if self.optional:
                return {}
            raise NotSupportedYet("no layer with a window", why="llama.cpp expects one in this architecture")
        return {
            "attention.sliding_window": u32(config.sliding_window),
            PATTERN: booleans(kind == SLIDING for kind in config.layer_types),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        windows = by_layer(metadata, PATTERN, min(integer(metadata, "block_count") or 0, MOST_LAYERS))
        width = integer(metadata, "attention.sliding_window")
        return {
            **({} if width is None else {"sliding_window": width}),
            "layer_types": [SLIDING if here else FULL for here in windows],
        }


@dataclass(frozen=True)
class RopeOrNone(Rule):
    """The frequency base of each layer, 0 where it has no positions; the others have that of ``rope_parameters``."""

    reads = ("layer_rope_theta",)

    def check(self, settings: Settings) -> None:
        check_list(settings, "layer_rope_theta")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        bases, theta = list(config.layer_rope_theta), config.rope_parameters["rope_theta"]
        if len(bases) != config.num_hidden_layers or not all(is_number(base) for base in bases):
            raise out_of_range("layer_rope_theta", bases, f"{config.num_hidden_layers} numbers")
        if other := {*bases} - {0, theta}:
            raise NotSupportedYet(
                f"rope_theta {other.pop()} in some layers and {theta} in others",
                why="llama.cpp has one base for all layers here",
            )
        return {_ROTATED: booleans(base != 0 for base in bases)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = min(integer(metadata, "block_count") or 0, MOST_LAYERS)
        theta = number(metadata, "rope.freq_base")
        rotated = by_layer(metadata, _ROTATED, n_layer) if _ROTATED in metadata else (True,) * n_layer
        return {"layer_rope_theta": [theta if here else 0 for here in rotated]}


@dataclass(frozen=True)
class PartialRopeByKind(Rule):
    """Each kind of layer rotates a share of its heads, with a frequency base of its own; windows have no scaling.

    ``types`` are the rope types of layers that see the whole text, ``share`` what transformers rotates where the table
    of a kind tells none.
    """

    types: tuple[str, ...] = ("default",)
    share: float = 1.0
    reads = Rope.reads

    @property
    def _full(self) -> Rope:
        return Rope(self.types, partial=True)

    @property
    def _window(self) -> Rope:
        return Rope(("default",), partial=True)

    def check(self, settings: Settings) -> None:
        parameters = settings.get("rope_parameters")
        if parameters is None:
            return
        if not isinstance(parameters, dict) or not {FULL} <= parameters.keys() <= {FULL, SLIDING}:
            raise out_of_range("rope_parameters", parameters, "a table for each kind of layer")
        self._full.check({"rope_parameters": parameters[FULL]})
        self._window.check({"rope_parameters": parameters.get(SLIDING)})

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        def of(rule: Rope, kind: str) -> Metadata:
            parameters = {"partial_rotary_factor": self.share, **config.rope_parameters[kind]}
            given = SimpleNamespace(rope_parameters=parameters, head_dim=config.head_dim)
            return rule.metadata(cast("PreTrainedConfig", given))

        result = of(self._full, FULL)
        if SLIDING not in config.layer_types:
            return result
        if SLIDING not in config.rope_parameters:
            raise out_of_range("rope_parameters", config.rope_parameters, "with a table for layers with a window")
        window = of(self._window, SLIDING)
        return result | {f"{key}_swa": value for key, value in window.items()}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        windows = {key: metadata[f"{key}_swa"] for key in _OF_ROPE if f"{key}_swa" in metadata}
        of_windows = {key: value for key, value in metadata.items() if not key.startswith("rope.scaling.")} | windows
        tables = {FULL: self._full.settings(metadata), SLIDING: self._window.settings(of_windows)}
        return {"rope_parameters": {kind: each["rope_parameters"] for kind, each in tables.items()}}


@dataclass(frozen=True)
class NumberOfLayers(Rule):
    """A number of each layer, under ``key``, which a checkpoint has as the ``tensor`` with the layer's number in the
    place of {}, of this ``shape``."""

    key: str
    tensor: str
    shape: tuple[int, ...]

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {self.key: f32s([0.0] * config.num_hidden_layers)}

    def numbers(self, config: PreTrainedConfig) -> dict[str, Numbers]:
        names = tuple(self.tensor.format(layer) for layer in range(config.num_hidden_layers))
        return {self.key: Numbers(names, self.shape)}


def one_or_each(counts: Sequence[int]) -> KV:
    """What :func:`by_layer` reads: one number where all layers have the same."""
    return u32(counts[0]) if len({*counts}) == 1 else i32s(counts)


def by_layer(metadata: Metadata, key: str, n_layer: int) -> tuple[Any, ...]:
    """A number of each layer, from one for all or one for each. Raises ``CheckpointError`` for other values."""
    found = metadata[key].value if key in metadata else 0
    values = found if isinstance(found, tuple) else (found,) * n_layer
    if len(values) != n_layer or not all(isinstance(value, int) for value in values):
        raise out_of_range(key, found, f"one number or one for each of {n_layer} layers")
    return values

"""Rules of decoders whose layers have a window, or positions, as lists in the metadata tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.rules.rule import (
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
from hubquant.gguf_file.metadata import KV, Metadata, booleans, i32s, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MOST_LAYERS = 10_000
PATTERN = "attention.sliding_window_pattern"
_ROTATED = "attention.rope_pattern"


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

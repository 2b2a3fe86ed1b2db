"""Rules of decoders in which some layers see only a window of the text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import (
    Rule,
    Settings,
    check_count,
    check_list,
    head_size,
    integer,
    number,
    plain_setting,
)
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, f32, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SLIDING, FULL = "sliding_attention", "full_attention"
LAST_OF_EACH = "llama.cpp gives the whole text to the last layer of every {}"


@dataclass(frozen=True)
class Windows(Rule):
    """Every ``period``-th layer sees the whole text, the others the last ``sliding_window`` tokens."""

    period: int
    reads = ("sliding_window", "layer_types")

    def check(self, settings: Settings) -> None:
        check_count(settings, "sliding_window", (1 << 31) - 1)
        check_list(settings, "layer_types")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if list(config.layer_types) != self._layers(config.num_hidden_layers):
            raise NotSupportedYet("this order of windowed layers", why=LAST_OF_EACH.format(self.period))
        return {"attention.sliding_window": u32(config.sliding_window)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = integer(metadata, "block_count") or 0
        return {
            "sliding_window": integer(metadata, "attention.sliding_window") or 4096,
            "layer_types": self._layers(min(n_layer, 10_000)),
        }

    def _layers(self, n_layer: int) -> list[str]:
        return [FULL if layer % self.period == self.period - 1 else SLIDING for layer in range(n_layer)]


@dataclass(frozen=True)
class DroppedWindow(Rule):
    """A window of all layers, or of some by ``layer_types``, that transformers has and llama.cpp does not compute."""

    reads: tuple[str, ...] = ("sliding_window",)

    def check(self, settings: Settings) -> None:
        check_count(settings, "sliding_window", (1 << 31) - 1, least=0)
        check_list(settings, "layer_types")

    def settings(self, metadata: Metadata) -> dict[str, Any]:  # noqa: ARG002
        return {"sliding_window": None}

    def notes(self, config: PreTrainedConfig) -> Iterator[str]:
        window, n_layer = plain_setting(config, "sliding_window") or 0, config.num_hidden_layers
        layers = list(config.layer_types).count(SLIDING) if "layer_types" in self.reads else n_layer
        if layers and 0 < window < config.max_position_embeddings:
            where = "" if layers == n_layer else f" in {layers} of {n_layer} layers"
            yield (
                f"texts of more than {window:,} tokens come out otherwise than in transformers: "
                f"llama.cpp has no window in this architecture and attends to all of them{where}, "
                f"not to the last {window:,} (sliding_window)"
            )


QWEN_WINDOW = DroppedWindow(("sliding_window", "use_sliding_window", "max_window_layers", "layer_types"))


@dataclass(frozen=True)
class WrittenWindow(DroppedWindow):
    """A dropped window that llama.cpp writes down; 0 stands for none."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {"attention.sliding_window": u32(config.sliding_window or 0)}


@dataclass(frozen=True)
class NoWindows(Rule):
    """Every layer sees the whole text, in a family that has windows elsewhere."""

    reads = Windows.reads

    def check(self, settings: Settings) -> None:
        if settings.get("sliding_window") is not None:
            raise NotSupportedYet("windowed layers in this architecture")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        self.check({"sliding_window": config.sliding_window})
        return {}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = integer(metadata, "block_count") or 0
        return {"sliding_window": None, "layer_types": [FULL] * min(n_layer, 10_000)}


@dataclass(frozen=True)
class WindowsOfLargest(Rule):
    """Windows in the largest model of the family, which llama.cpp knows by its ``n_layer`` layers, and in no other."""

    n_layer: int
    windows: Windows
    none = NoWindows()
    reads = Windows.reads

    def check(self, settings: Settings) -> None:
        self.windows.check(settings)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if (config.sliding_window is not None) != (config.num_hidden_layers == self.n_layer):
            raise NotSupportedYet(
                f"sliding_window {config.sliding_window} with {config.num_hidden_layers} layers",
                why=f"llama.cpp has windows where there are {self.n_layer} layers, and only there",
            )
        return (self.none if config.sliding_window is None else self.windows).metadata(config)

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        largest = integer(metadata, "block_count") == self.n_layer
        return (self.windows if largest else self.none).settings(metadata)


@dataclass(frozen=True)
class LayersWithoutRope(Rule):
    """Every ``period``-th layer knows no positions."""

    period: int
    reads = ("no_rope_layers",)

    def check(self, settings: Settings) -> None:
        check_list(settings, "no_rope_layers")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if list(config.no_rope_layers) != self._layers(config.num_hidden_layers):
            raise NotSupportedYet(
                "this order of layers without rope", why=f"llama.cpp leaves it out in the last of every {self.period}"
            )
        return {}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {"no_rope_layers": self._layers(min(integer(metadata, "block_count") or 0, 10_000))}

    def _layers(self, n_layer: int) -> list[int]:
        """0 where rope is left out, as transformers writes it."""
        return [int(layer % self.period != self.period - 1) for layer in range(n_layer)]


@dataclass(frozen=True)
class QueryScale(Rule):
    """Gemma's queries are divided by the root of the head size, in its largest model by that of width / heads.

    llama.cpp knows the largest model by its number of layers, where there is one.
    """

    n_layer_of_27b: int | None
    reads = ("query_pre_attn_scalar",)

    def check(self, settings: Settings) -> None:
        check_count(settings, "query_pre_attn_scalar", 1 << 16)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        wide = config.hidden_size // config.num_attention_heads
        expected = wide if config.num_hidden_layers == self.n_layer_of_27b else config.head_dim
        if config.query_pre_attn_scalar != expected:
            raise NotSupportedYet(
                f"query_pre_attn_scalar {config.query_pre_attn_scalar}", why=f"llama.cpp computes with {expected}"
            )
        return {}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        width, heads = integer(metadata, "embedding_length"), integer(metadata, "attention.head_count")
        if integer(metadata, "block_count") == self.n_layer_of_27b and width and heads:
            return {"query_pre_attn_scalar": width // heads}
        return {"query_pre_attn_scalar": integer(metadata, "attention.key_length")}


@dataclass(frozen=True)
class RopeByLayer(Rule):
    """Layers with a window have a frequency base of their own and no scaling."""

    full: Rope
    reads = Rope.reads

    def check(self, settings: Settings) -> None:
        parameters = settings.get("rope_parameters")
        if not isinstance(parameters, dict) or FULL not in parameters:
            self.full.check(settings)
            return
        self.full.check({"rope_parameters": parameters[FULL]})
        Rope(("default",)).check({"rope_parameters": parameters.get(SLIDING)})

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        whole = cast(
            "PreTrainedConfig",
            SimpleNamespace(rope_parameters=config.rope_parameters[FULL], head_dim=head_size(config)),
        )
        theta = config.rope_parameters[SLIDING]["rope_theta"]
        return {**self.full.metadata(whole), "rope.freq_base_swa": f32(theta)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        theta = number(metadata, "rope.freq_base_swa") or 10000.0
        whole = self.full.settings(metadata)["rope_parameters"]
        return {"rope_parameters": {FULL: whole, SLIDING: {"rope_type": "default", "rope_theta": theta}}}


@dataclass(frozen=True)
class UnscaledInWindows(Rule):
    """Layers with a window have the same frequency base and no scaling."""

    full: Rope
    reads = Rope.reads

    def check(self, settings: Settings) -> None:
        RopeByLayer(self.full).check(settings)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        bases = [config.rope_parameters[kind]["rope_theta"] for kind in (FULL, SLIDING)]
        if bases[0] != bases[1]:
            raise NotSupportedYet(f"rope_theta {bases[1]} in windows and {bases[0]} elsewhere")
        result = RopeByLayer(self.full).metadata(config)
        del result["rope.freq_base_swa"]
        return result

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        whole = self.full.settings(metadata)["rope_parameters"]
        return {"rope_parameters": {FULL: whole, SLIDING: {"rope_type": "default", "rope_theta": whole["rope_theta"]}}}

"""Rules of decoders in which layers with a window have other heads than layers that see the whole text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.rules.by_layer import MOST_LAYERS, PATTERN, by_layer, one_or_each
from hubquant.convert.rules.rope import FREQS
from hubquant.convert.rules.rule import Rule, Settings, check_count, integer, is_number, number, out_of_range
from hubquant.convert.rules.windows import FULL, SLIDING
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, booleans, f32, u32

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_UNROTATED = 1e30  # what llama.cpp divides the frequencies by that do not rotate
_HEADS_KV = "attention.head_count_kv"


def sees_all(config: PreTrainedConfig, layer: int) -> bool:
    return bool(config.layer_types[layer] == FULL)


def of_kind(config: PreTrainedConfig, kind: str) -> tuple[int, int]:
    """Size of a head, and number of key-value heads, in the layers of a kind.

    Raises ``NotSupportedYet`` where they differ, ``CheckpointError`` for numbers that no model has.
    """
    found = {
        (int(each.head_dim), int(each.num_key_value_heads))
        for layer, each in enumerate(config.per_layer_config[i] for i in range(config.num_hidden_layers))
        if config.layer_types[layer] == kind
    }
    if len(found) > 1:
        raise NotSupportedYet(f"heads that differ between layers of the kind {kind}")
    if not found:
        raise NotSupportedYet(f"no layer of the kind {kind}")
    size, kv_heads = found.pop()
    if size < 1 or size % 2:
        raise out_of_range("head_dim", size, "even, because rope rotates pairs")
    if kv_heads < 1 or config.num_attention_heads % kv_heads:
        heads = config.num_attention_heads
        raise out_of_range("num_key_value_heads", kv_heads, f"a divisor of the {heads} attention heads")
    return size, kv_heads


@dataclass(frozen=True)
class HeadsByKind(Rule):
    """Heads of two sizes, with key-value heads of two numbers, by the kind of layer."""

    counts = (
        *("num_attention_heads", "num_key_value_heads", "head_dim", "global_head_dim"),
        *("num_global_key_value_heads", "sliding_window"),
    )
    reads = (*counts, "layer_types", "per_layer_config")

    def check(self, settings: Settings) -> None:
        for setting in self.counts:
            check_count(settings, setting, (1 << 31) - 1 if setting == "sliding_window" else 1 << 16)
        layers = settings.get("layer_types")
        if layers is not None and not (isinstance(layers, list) and {*map(str, layers)} <= {FULL, SLIDING}):
            raise out_of_range("layer_types", layers, f"a list of {FULL} and {SLIDING}")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if len(config.layer_types) != config.num_hidden_layers:
            raise out_of_range("layer_types", config.layer_types, f"{config.num_hidden_layers} kinds of layers")
        (size, kv_heads), (wide, wide_kv_heads) = of_kind(config, SLIDING), of_kind(config, FULL)
        whole = [sees_all(config, layer) for layer in range(config.num_hidden_layers)]
        counts = [wide_kv_heads if here else kv_heads for here in whole]
        return {
            "attention.head_count": u32(config.num_attention_heads),
            _HEADS_KV: one_or_each(counts),
            "attention.key_length": u32(wide),
            "attention.value_length": u32(wide),
            "attention.key_length_swa": u32(size),
            "attention.value_length_swa": u32(size),
            "attention.sliding_window": u32(config.sliding_window),
            PATTERN: booleans(not here for here in whole),
            "rope.dimension_count": u32(wide),
            "rope.dimension_count_swa": u32(size),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = min(integer(metadata, "block_count") or 0, MOST_LAYERS)
        windows = by_layer(metadata, PATTERN, n_layer)
        kv_heads = by_layer(metadata, _HEADS_KV, n_layer)
        wide = integer(metadata, "attention.key_length")
        narrow = [count for count, here in zip(kv_heads, windows, strict=True) if here] or kv_heads
        return {
            "num_attention_heads": integer(metadata, "attention.head_count"),
            "num_key_value_heads": narrow[0] if narrow else None,
            "head_dim": integer(metadata, "attention.key_length_swa"),
            "sliding_window": integer(metadata, "attention.sliding_window") or 512,
            "layer_types": [SLIDING if here else FULL for here in windows],
            "per_layer_config": {
                str(layer): {"head_dim": wide, "num_key_value_heads": count}
                for layer, (count, here) in enumerate(zip(kv_heads, windows, strict=True))
                if not here
            },
        }


@dataclass(frozen=True)
class RopeByKind(Rule):
    """Layers that see the whole text rotate a share of each head, which ``rope_freqs.weight`` tells."""

    reads = ("rope_parameters",)

    def check(self, settings: Settings) -> None:
        parameters = settings.get("rope_parameters")
        if parameters is None:
            return
        if not isinstance(parameters, dict) or not all(isinstance(each, dict) for each in parameters.values()):
            raise out_of_range("rope_parameters", parameters, "a table for each kind of layer")
        for kind, known in {FULL: ("default", "proportional"), SLIDING: ("default",)}.items():
            each = parameters.get(kind, {})
            type, theta, share = each.get("rope_type"), each.get("rope_theta"), each.get("partial_rotary_factor", 1.0)
            if type not in known:
                raise NotSupportedYet(f"rope type {str(type)[:40]!r}", why=f"known here: {', '.join(known)}")
            if not (is_number(theta) and 0 < theta <= 1e30):
                raise out_of_range("rope_theta", theta, "a number above 0")
            if not (is_number(share) and 0 < share <= 1):
                raise out_of_range("partial_rotary_factor", share, "above 0 and up to 1")
            if each.get("factor", 1.0) != 1 or (share != 1 and type == "default"):
                raise NotSupportedYet(
                    "this rope", why="llama.cpp does not scale it, and rotates whole heads in windows"
                )

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        parameters = config.rope_parameters
        return {
            "rope.freq_base": f32(parameters[FULL]["rope_theta"]),
            "rope.freq_base_swa": f32(parameters[SLIDING]["rope_theta"]),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        # the share that is rotated comes from rope_freqs.weight
        full = {"rope_type": "proportional", "rope_theta": number(metadata, "rope.freq_base") or 1e6}
        window = {"rope_type": "default", "rope_theta": number(metadata, "rope.freq_base_swa") or 1e4}
        return {"rope_parameters": {FULL: full, SLIDING: window}}


def frequency_divisors(config: PreTrainedConfig) -> dict[str, tuple[float, ...]]:
    """``rope_freqs.weight`` of the layers that see the whole text: 1 where a frequency rotates."""
    size, _ = of_kind(config, FULL)
    share = config.rope_parameters[FULL].get("partial_rotary_factor", 1.0)
    rotated = int(share * size // 2)  # as transformers rounds
    return {FREQS: (1.0,) * rotated + (_UNROTATED,) * (size // 2 - rotated)}


def rotated_share(divisors: torch.Tensor) -> float:
    """The ``partial_rotary_factor`` that gives these ``divisors`` [head_dim / 2] (:func:`frequency_divisors`)."""
    rotated, n = int((divisors < _UNROTATED / 2).sum()), divisors.numel()
    share = rotated / n
    return share if int(share * 2 * n // 2) == rotated else math.nextafter(share, 1)

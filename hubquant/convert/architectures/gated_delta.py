"""What Qwen3-Next and Qwen3.5 share: gated delta nets in most layers, gated attention in every fourth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert import ahead
from hubquant.convert.architectures import decoder
from hubquant.convert.operations import AddOne, Dimensions, NegativeExp, OperationFor, always, reshape
from hubquant.convert.rules.heads_by_layer import FULL, attends
from hubquant.convert.rules.rule import (
    SILU,
    Count,
    Epsilon,
    Fixed,
    Heads,
    Rule,
    Settings,
    check_count,
    check_list,
    integer,
    out_of_range,
)
from hubquant.convert.tables import Embeddings, Module, Row, Tensors, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_INTERVAL = "full_attention_interval"
_KEY_HEADS, _VALUE_HEADS = "linear_num_key_heads", "linear_num_value_heads"
_KEY_SIZE, _VALUE_SIZE = "linear_key_head_dim", "linear_value_head_dim"


class _Interval(Rule):
    """Attention in the last of every so many layers."""

    reads = ("layer_types",)

    def check(self, settings: Settings) -> None:
        check_count(settings, _INTERVAL, 10_000)
        check_list(settings, "layer_types")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        layers = list(config.layer_types)
        interval = (layers.index(FULL) if FULL in layers else len(layers)) + 1
        if layers != self._layers(config.num_hidden_layers, interval):
            raise NotSupportedYet(
                "this order of layers with attention", why="llama.cpp puts it in the last of every so many layers"
            )
        return {_INTERVAL: u32(interval)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer, interval = integer(metadata, "block_count") or 0, integer(metadata, _INTERVAL) or 4
        return {"layer_types": self._layers(min(n_layer, 10_000), interval)}

    def _layers(self, n_layer: int, interval: int) -> list[str]:
        return [FULL if (layer + 1) % interval == 0 else "linear_attention" for layer in range(n_layer)]


class _DeltaHeads(Rule):
    """Heads of keys and of values, all of one size; as many value heads share each key head."""

    reads = (_KEY_HEADS, _VALUE_HEADS, _KEY_SIZE, _VALUE_SIZE)

    def check(self, settings: Settings) -> None:
        for setting in self.reads:
            check_count(settings, setting, 1 << 16)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        keys, values = getattr(config, _KEY_HEADS), getattr(config, _VALUE_HEADS)
        size, value_size = getattr(config, _KEY_SIZE), getattr(config, _VALUE_SIZE)
        if values % keys:
            raise out_of_range(_VALUE_HEADS, values, f"a multiple of the {keys} key heads")
        if size != value_size:
            raise NotSupportedYet(f"key heads of {size} and value heads of {value_size}", why="llama.cpp has one size")
        return {
            "ssm.state_size": u32(size),
            "ssm.group_count": u32(keys),
            "ssm.time_step_rank": u32(values),
            "ssm.inner_size": u32(size * values),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        size = integer(metadata, "ssm.state_size")
        return {
            _KEY_SIZE: size,
            _VALUE_SIZE: size,
            _KEY_HEADS: integer(metadata, "ssm.group_count"),
            _VALUE_HEADS: integer(metadata, "ssm.time_step_rank"),
        }


RULES: tuple[Rule, ...] = (
    *(rule for rule in decoder.SIZES if rule != Count("feed_forward_length", "intermediate_size")),
    Heads(),
    Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    Fixed("rms_norm_eps", 1e-6),  # transformers has it in the delta net too, whatever the config says
    SILU,
    Fixed("attention_bias", False),
    Count("ssm.conv_kernel", "linear_conv_kernel_dim", most=1 << 10),
    _DeltaHeads(),
    _Interval(),
)


def centered(name: str, size: str = "n_embd") -> Module:
    """A norm that is stored without its 1."""
    return Module(name, (size,), operations=(always(AddOne()),))


OUTSIDE: tuple[Row, ...] = (Embeddings(), centered("model.norm"))
_ATTENTION: tuple[Row, ...] = (
    linear("self_attn.q_proj", "n_embd_q_2", "n_embd"),  # each head's queries and then its gate
    linear("self_attn.k_proj", "n_embd_kv", "n_embd"),
    linear("self_attn.v_proj", "n_embd_kv", "n_embd"),
    linear("self_attn.o_proj", "n_embd", "n_embd_q"),
    centered("self_attn.q_norm", "n_embd_head"),
    centered("self_attn.k_norm", "n_embd_head"),
)


_HEAD = decoder.around_one(ahead.HEAD)


@dataclass(frozen=True)
class Layers:
    """The rows of each layer.

    ``projections`` go into and out of the delta net; ``by_head`` act on what has a number for each value head and
    ``by_channel`` on the rows of the convolution's weight.
    """

    projections: tuple[Row, ...]
    feed_forward: tuple[Row, ...]
    by_head: tuple[OperationFor, ...] = ()
    by_channel: tuple[OperationFor, ...] = ()

    def __call__(self, config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
        return (
            centered("input_layernorm"),
            *(_ATTENTION if attends(config, layer) else self._delta_net()),
            centered("post_attention_layernorm"),
            *self.feed_forward,
        )

    def ahead(self, _config: PreTrainedConfig) -> tuple[Row, ...]:
        """Of a layer that predicts further tokens, which has attention."""
        return (
            centered("input_layernorm"),
            *_ATTENTION,
            centered("post_attention_layernorm"),
            *self.feed_forward,
            *_HEAD,
        )

    def _delta_net(self) -> Iterable[Row]:
        flat = reshape(("n_qkv", "one", "n_conv"), ("n_qkv", "n_conv"))
        decay = always(NegativeExp())
        yield from self.projections
        yield norm("linear_attn.norm", "n_value_head")
        yield _one("conv1d.weight", "ssm_conv1d.weight", ("n_qkv", "n_conv"), (flat, *self.by_channel))
        yield _one("dt_bias", "ssm_dt.bias", ("n_value",), self.by_head)
        yield _one("A_log", "ssm_a", ("n_value",), (decay, *self.by_head))


def _one(source: str, target: str, shape: tuple[str, ...], operations: tuple[OperationFor, ...]) -> Row:
    return Tensors((f"linear_attn.{source}",), {target: shape}, operations)


def dimensions(config: PreTrainedConfig) -> Dimensions:
    keys, values, size = (int(getattr(config, name)) for name in (_KEY_HEADS, _VALUE_HEADS, _KEY_SIZE))
    return {
        "n_embd_q_2": 2 * config.num_attention_heads * config.head_dim,
        "n_conv": config.linear_conv_kernel_dim,
        "n_key": keys,
        "n_value": values,
        "n_value_2": 2 * values,
        "n_value_head": size,
        "n_keys": keys * size,
        "n_keys_2": 2 * keys * size,
        "n_values": values * size,
        "n_values_of_key": values // keys * size,
        "n_qkv": (2 * keys + values) * size,
        "n_qkvz": (2 * keys + 2 * values) * size,
    }

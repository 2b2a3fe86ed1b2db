"""PLaMo 3, whose code is not part of transformers: norms before and behind both halves of a layer, norms of heads, and
windows with a frequency base of their own. Ministral's config stands for its own. The formulas are those of vLLM
(vllm/model_executor/models/plamo3.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.architectures.plamo import BEHIND_FEED_FORWARD, BEHIND_MIXER, centered
from hubquant.convert.operations import AddOne, Dimensions, always
from hubquant.convert.rules.by_layer import WindowsByLayer
from hubquant.convert.rules.rope import raw_parameters, rope_type
from hubquant.convert.rules.rule import Fixed, Settings, check_count, out_of_range
from hubquant.convert.rules.windows import FULL, SLIDING, RopeByLayer
from hubquant.convert.rules.yarn import UntruncatedYarn
from hubquant.convert.tables import Embeddings, Module, linear
from hubquant.errors import NotSupportedYet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_WINDOWS, _FACTOR, _CONTEXT = "interleaved_sliding_window", "rope_scaling_factor", "initial_context_length"
_NAMES = ("window_size", "sliding_window_pattern", _WINDOWS, "rope_local_theta", _FACTOR, _CONTEXT)
_DEFAULTS: dict[str, Any] = {
    "head_dim": 128,
    "intermediate_size": 13312,
    "max_position_embeddings": 2048,
    "num_hidden_layers": 32,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "sliding_window": 2048,
    "sliding_window_pattern": 8,
    "tie_word_embeddings": True,
    "vocab_size": 32000,
}


class _Rope(RopeByLayer):
    def notes(self, config: PreTrainedConfig) -> Iterator[str]:
        if rope_type(config.rope_parameters[FULL]) == "yarn":
            yield (
                "llama.cpp rounds the range of frequencies that yarn stretches in part to whole ones, which PLaMo 3 "
                "does not: layers that see the whole text compute a little otherwise"
            )


def _translated(settings: Settings) -> dict[str, Any]:
    """The last of every ``sliding_window_pattern`` layers sees the whole text."""
    window = {"sliding_window": settings["window_size"]} if "window_size" in settings else {}
    named = {**_DEFAULTS, **window, **settings}
    for name, most in (("num_hidden_layers", 10_000), ("sliding_window_pattern", 10_000), ("sliding_window", 1 << 30)):
        check_count(named, name, most)
        if named[name] is None:
            raise out_of_range(name, None, f"a whole number from 1 to {most:,}")
    n_layer, period, width = (named[name] for name in ("num_hidden_layers", "sliding_window_pattern", "sliding_window"))
    layers = [SLIDING if (layer + 1) % period else FULL for layer in range(n_layer)]
    given = settings.get(_WINDOWS)
    if given not in (None, [width if kind == SLIDING else None for kind in layers]):
        raise NotSupportedYet(
            f"{_WINDOWS} {str(given)[:40]}", why="sliding_window_pattern and the window say otherwise"
        )
    return {**named, "layer_types": layers, "rope_parameters": _rope(settings)}


def _rope(settings: Settings) -> dict[str, Any]:
    given, factor = raw_parameters(settings), settings.get(_FACTOR)
    if FULL in given:
        return given
    whole = {"rope_type": "default", "rope_theta": 1e6, **given}
    if factor not in (None, 1):
        check_count(settings, _CONTEXT, (1 << 31) - 1)
        if settings.get(_CONTEXT) is None:
            raise out_of_range(_CONTEXT, None, f"a whole number where {_FACTOR} is {str(factor)[:40]}")
        context = {"original_max_position_embeddings": settings[_CONTEXT]}
        whole |= {"rope_type": "yarn", "factor": factor, "truncate": False, **context}
    local = settings.get("rope_local_theta")
    return {FULL: whole, SLIDING: {"rope_type": "default", "rope_theta": 1e4 if local is None else local}}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = decoder.dimensions(config)
    return {**sizes, "n_qkv": sizes["n_embd_q"] + 2 * sizes["n_embd_kv"], "n_ff_2": 2 * sizes["n_ff"]}


PLAMO3 = Architecture(
    name="plamo3",
    classes={"Plamo3ForCausalLM": "ministral", "PLaMo3ForCausalLM": "ministral"},
    restored_as="ministral",
    rules=(
        *decoder.RULES,
        _Rope(UntruncatedYarn(("default", "yarn"))),
        WindowsByLayer(optional=True),
        Fixed("hidden_activation", "swiglu"),
        Fixed("attention_bias", False),
        Fixed("scale_embedding", False),
        Fixed("linear_type", "normal"),
    ),
    dimensions=_dimensions,
    outside=(Embeddings(), Module("model.norm", ("n_embd",), operations=(always(AddOne()),))),
    block=every_layer(
        centered("pre_mixer_norm", "attn_norm.weight"),
        linear("mixer.qkv_proj", "n_qkv", "n_embd"),
        centered("mixer.q_norm", "attn_q_norm.weight", size="n_embd_head"),
        centered("mixer.k_norm", "attn_k_norm.weight", size="n_embd_head"),
        linear("mixer.o_proj", "n_embd", "n_embd_q"),
        centered("post_mixer_norm", "post_attention_norm", BEHIND_MIXER),
        centered("pre_mlp_norm", "ffn_norm.weight"),
        linear("mlp.gate_up_proj", "n_ff_2", "n_embd"),
        linear("mlp.down_proj", "n_embd", "n_ff"),
        centered("post_mlp_norm", "post_ffw_norm", BEHIND_FEED_FORWARD),
    ),
    blocks="model.layers.layers",
    translate=_translated,
    translated=(*_NAMES, "image_proj_type"),
    own_code=True,
)

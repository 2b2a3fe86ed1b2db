"""Gemma 4's assistants: a few layers that draft tokens from the last states of a Gemma 4, their target, and attend to
the keys and values of its last layers, for they have none of their own.

Tokens are embedded by the target's table; the assistant's own is its output layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.text_tower import text_settings
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, gemma4
from hubquant.convert.architectures.eagle3 import other_target
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.heads_by_kind import HeadsByKind, RopeByKind, frequency_divisors, of_kind
from hubquant.convert.rules.rule import GELU, Count, Epsilon, Fixed, Rule, Settings
from hubquant.convert.rules.windows import FULL, SLIDING
from hubquant.convert.tables import Module
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_STATES = "backbone_hidden_size"
_SHARED = "num_kv_shared_layers"


class _AllShared(Rule):
    """The file counts the layers once more as those that share keys and values, and as those that draft."""

    reads = (_SHARED,)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        n_layer, shared = config.num_hidden_layers, getattr(config, _SHARED) or config.num_hidden_layers
        if shared != n_layer:
            raise NotSupportedYet(
                f"an assistant with {shared} of {n_layer} layers without keys and values of their own",
                why="llama.cpp's assistants have none in any",
            )
        return {
            "attention.shared_kv_layers": u32(n_layer),
            "nextn_predict_layers": u32(n_layer),
            "embedding_length_per_layer_input": u32(0),
        }


class _States(Count):
    """How many numbers a state of the target has, by which llama.cpp knows that the file is an assistant's."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if getattr(config, _STATES) == config.hidden_size:
            raise NotSupportedYet(
                f"an assistant as wide as its target ({config.hidden_size})", why="llama.cpp loads no such file"
            )
        return super().metadata(config)


class _Notes(Rule):
    reads = ("use_ordered_embeddings",)

    def notes(self, config: PreTrainedConfig) -> Iterator[str]:
        yield (
            f"where a window is full, llama.cpp lets the assistant see {config.sliding_window - 1} tokens of it, and "
            f"transformers {config.sliding_window + 1}; only how many drafts the target accepts may differ"
        )
        if getattr(config, "use_ordered_embeddings", False):
            yield (
                "masked_embedding is left out: transformers scores the tokens of the likeliest groups alone, and "
                "llama.cpp all of them"
            )


def _translate(settings: Settings) -> dict[str, Any]:
    if not isinstance(settings.get("text_config"), dict):
        raise CheckpointError("config.json has no text_config, which tells of an assistant's layers")
    defaults = {"tie_word_embeddings": True, _STATES: 1536}  # of the class, whatever stands in text_config
    ordered = {name: settings.get(name) for name in _Notes.reads}
    return {**text_settings(settings), **ordered, **{name: settings.get(name, x) for name, x in defaults.items()}}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    states: int = getattr(config, _STATES, 0)
    return {**gemma4.dimensions(config), "n_states": states, "n_states_2": 2 * states}


GEMMA4_ASSISTANT = Architecture(
    name="gemma4-assistant",
    classes=dict.fromkeys(("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM"), "gemma4_text"),
    restored_as="gemma4_text",
    rules=(
        *decoder.SIZES,
        HeadsByKind(),
        RopeByKind(),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        _AllShared(),
        _States("embedding_length_out", _STATES),
        _Notes(),
        Fixed("hidden_size_per_layer_input", 0),
        Fixed("enable_moe_block", False),
        Fixed("use_double_wide_mlp", False),
        Fixed("attention_bias", False),
        Fixed("tie_word_embeddings", True),
        Fixed("hidden_activation", "gelu_pytorch_tanh", same=GELU),
        Fixed("use_bidirectional_attention", None, same=("vision",)),
    ),
    dimensions=_dimensions,
    outside=(
        *decoder.OUTSIDE,
        Module("pre_projection", ("n_embd", "n_states_2"), stem="nextn.pre_projection"),
        Module("post_projection", ("n_states", "n_embd"), stem="nextn.post_projection"),
    ),
    block=gemma4.block,
    constants=frequency_divisors,
    ignored=(r"^masked_embedding\.",),
    translate=_translate,
    # of a head over states that the target caps, and of tables and experts that no assistant has
    without_effect=(
        *("final_logit_softcapping", "vocab_size_per_layer_input", "attention_k_eq_v"),
        *("num_experts", "top_k_experts", "moe_intermediate_size"),
    ),
    own_code=True,
    drafts=True,
)


def check_target(own: PreTrainedConfig, name: str, config: PreTrainedConfig) -> None:
    """``name`` is llama.cpp's of the target, ``config`` its language model's, and ``own`` the assistant's.

    Raises ``CheckpointError`` for a target whose states, tokens, keys or values the assistant cannot be given.
    """
    if name != gemma4.GEMMA4.name:
        raise other_target(f"it is the assistant of a Gemma 4, and the target is a {name}")
    if getattr(own, _STATES) != config.hidden_size:
        raise other_target(
            f"it takes states of {getattr(own, _STATES)} numbers, and the target's have {config.hidden_size}"
        )
    if own.vocab_size != config.vocab_size:
        raise other_target(f"it knows {own.vocab_size:,} tokens, and the target {config.vocab_size:,}")
    if list(config.layer_types[-2:]) != [SLIDING, FULL]:
        raise other_target("llama.cpp gives it the keys and values of the last two layers: one with a window, then one")
    if any(of_kind(own, kind) != of_kind(config, kind) for kind in (SLIDING, FULL)):
        raise other_target("keys and values of its layers have other heads than those of the target's")

"""DFlash: layers of Qwen3 that fill a block of masked tokens at once, beside the states of another model, their target.

https://arxiv.org/abs/2602.06036. What the target's layers give out is fused to one state for each token, of which every
layer makes keys and values of its own. Where a file has no embedding and output layer, llama.cpp takes the target's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder
from hubquant.convert.architectures.eagle3 import OF_THE_TARGET, needs_target, other_target
from hubquant.convert.architectures.qwen3 import QWEN3
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.by_layer import PATTERN
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Fixed, Rule, Settings, check_count, head_size
from hubquant.convert.rules.sections import SECTIONS, SECTIONS_KEY
from hubquant.convert.rules.windows import FULL, SLIDING
from hubquant.convert.tables import Module, Where, norm
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, boolean, booleans, i32s, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_OWN = "dflash_config"
_LAYERS, _MASK, _BLOCK = "target_layer_ids", "mask_token_id", "block_size"
_CAUSAL, _TABLES, _TURNS = "drafts_causally", "own_tables", "target_has_sections"
_KNOWN = (_LAYERS, _MASK, _BLOCK, "causal")


class _TargetLayers(Rule):
    """The layers whose states, as they go out, are fused; a file counts layers by what comes in."""

    reads = (_LAYERS,)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if not hasattr(config, _TABLES):
            raise needs_target()
        return {"target_layers": i32s(layer + 1 for layer in getattr(config, _LAYERS))}


class _Block(Rule):
    reads = (_MASK, _BLOCK, _CAUSAL, _TURNS)

    def check(self, settings: Settings) -> None:
        check_count(settings, _BLOCK, 1 << 16, least=2)
        check_count(settings, _MASK, 1 << 24, least=0)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        mask, causal = getattr(config, _MASK), getattr(config, _CAUSAL)
        if mask is None or mask >= config.vocab_size:
            raise CheckpointError(f"{_MASK} is {mask}", why=f"it must be one of the {config.vocab_size:,} tokens")
        told = {_BLOCK: u32(getattr(config, _BLOCK) or 16), "tokenizer.ggml.mask_token_id": u32(mask)}
        if causal is not None:
            told["attention.causal"] = boolean(causal)
        if getattr(config, _TURNS, False):  # as time alone has the target's positions turn in a text
            told[SECTIONS_KEY] = i32s([head_size(config) // 2, 0, 0, 0])
        return told


class _Windows(Rule):
    reads = ("sliding_window", "use_sliding_window", "layer_types", "max_window_layers")

    def check(self, settings: Settings) -> None:
        check_count(settings, "sliding_window", (1 << 31) - 1)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        windows = [kind == SLIDING for kind in config.layer_types]
        if len(windows) != config.num_hidden_layers or not {*config.layer_types} <= {FULL, SLIDING}:
            raise CheckpointError(
                f"layer_types is {str(config.layer_types)[:80]}", why="it must tell every layer's kind"
            )
        if not any(windows):
            return {}
        if not config.sliding_window:
            raise CheckpointError("layer_types has windows", why="config.json does not tell how wide they are")
        return {"attention.sliding_window": u32(config.sliding_window), PATTERN: booleans(windows)}


def _translate(settings: Settings) -> dict[str, Any]:
    own = settings.get(_OWN) or {}
    if not isinstance(own, Mapping):
        raise CheckpointError(f"{_OWN} in config.json is no table of settings")
    if unknown := [name for name, value in own.items() if value not in (None, False) and name not in _KNOWN]:
        raise NotSupportedYet(f"{unknown[0]} in {_OWN}", why="what it changes was not compared with llama.cpp")
    causal = own.get("causal") if settings.get("is_causal") is None else settings["is_causal"]
    told = {name: own.get(name, settings.get(name)) for name in (_LAYERS, _MASK, _BLOCK)}
    rest = {name: value for name, value in settings.items() if name not in (_OWN, "is_causal")}
    return {**rest, **told, _CAUSAL: causal, "tie_word_embeddings": False}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = decoder.dimensions(config)
    return {**sizes, "n_states": len(getattr(config, _LAYERS, None) or ()) * sizes["n_embd"]}


DFLASH = Architecture(
    name="dflash",
    classes={"DFlashDraftModel": "qwen3"},
    restored_as="qwen3",
    rules=(
        *decoder.RULES,
        Rope(),
        _TargetLayers(),
        _Block(),
        _Windows(),
        Fixed("attention_bias", False),
        Fixed("rope_is_neox_style", True),
        Fixed("output_multiplier", None),
        Fixed("final_logit_softcapping", None),
        Fixed("input_embedding_scale", None),
    ),
    dimensions=_dimensions,
    outside=(
        Where(
            _TABLES,
            (
                Module("model.embed_tokens", ("n_vocab", "n_embd"), stem="token_embd"),
                Module("model.lm_head", ("n_vocab", "n_embd"), stem="output"),
            ),
        ),
        Module("model.fc", ("n_embd", "n_states"), stem="fc"),
        norm("model.hidden_norm", stem="enc.output_norm"),
        norm("model.norm"),
    ),
    block=QWEN3.block,
    translate=_translate,
    translated=(_OWN, "num_target_layers"),
    own_code=True,
    drafts=True,
)


def beside(drafter: Checkpoint, target: Settings) -> Checkpoint:
    """``drafter`` with what its file tells of ``target``, which is that model's config.json (its language model's).

    Raises ``CheckpointError`` for a target that cannot be its own.
    """
    config = _translate(drafter.config)
    n_layer, width, n_vocab = (target.get(name) for name in ("num_hidden_layers", "hidden_size", "vocab_size"))
    if type(n_layer) is not int or type(width) is not int:
        raise CheckpointError("the target's config.json does not tell its layers and the size of its states")
    if config.get("hidden_size") != width:
        raise other_target(f"it takes states of {config.get('hidden_size')} numbers, and the target's have {width}")
    if config.get("vocab_size") != n_vocab:
        raise other_target(f"it knows {config.get('vocab_size')} tokens, and the target {n_vocab}")
    layers = config[_LAYERS] or _spread(n_layer, config.get("num_hidden_layers"))
    if not (isinstance(layers, Sequence) and all(type(each) is int and each >= 0 for each in layers)):
        raise CheckpointError(f"{_LAYERS} is {str(layers)[:80]}", why="it must be a list of layers")
    if max(layers) >= n_layer:
        raise other_target(f"it takes the states of layers {', '.join(map(str, layers))}, and the target has {n_layer}")
    names = {name.removeprefix("model.") for name in drafter.tensors}
    rope = target.get("rope_parameters") or target.get("rope_scaling") or {}
    told = {
        _TABLES: {"embed_tokens.weight", "lm_head.weight"} <= names,
        _TURNS: SECTIONS in rope or target.get(SECTIONS) is not None,
        _OWN: {**(drafter.config.get(_OWN) or {}), _LAYERS: layers},
    }
    return replace(drafter, config={**drafter.config, **told, **{x: target[x] for x in OF_THE_TARGET if x in target}})


def _spread(n_target: int, n_layer: Any) -> list[int]:
    """The layers of older checkpoints, which do not name them."""
    if type(n_layer) is not int or n_layer < 2:
        return [n_target // 2]
    return [round(1 + i * (n_target - 4) / (n_layer - 1)) for i in range(n_layer)]

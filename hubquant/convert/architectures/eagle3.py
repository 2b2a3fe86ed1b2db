"""EAGLE-3: a layer of Llama that drafts tokens from the states of three layers of another model, its target.

https://arxiv.org/abs/2503.01840. A file has the target's vocabulary; where it has no embedding or output layer of its
own, llama.cpp takes the target's. Its output layer may know fewer tokens than the target: which ones, ``d2t`` tells, as
distances in the checkpoint and as ids in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.architectures.llama import LLAMA
from hubquant.convert.head_order import interleave_halves
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import DYNAMIC, Rope, rope_freqs
from hubquant.convert.rules.rule import Count, Fixed, Rule, Settings, Switch
from hubquant.convert.tables import Module, Tensors, Where, norm
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, i32s

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_LAYERS = "eagle_aux_hidden_state_layer_ids"
_N_LAYERS = 3
_NESTED = "transformer_layer_config"
_OWN = {"own_embedding": "embed_tokens.weight", "own_output": "lm_head.weight", "own_tokens": "d2t"}
_ID_BYTES = 8
OF_THE_TARGET = ("bos_token_id", "eos_token_id", "pad_token_id")
_NOT_OF_THE_LAYER = ("model_type", "architectures", "torch_dtype", "dtype", "transformers_version")
_RENAMES = ((r"^midlayer\.", "layers.0."), (r"^model\.", ""))


class _TargetLayers(Rule):
    """Whose states, as they come in, the drafter is given."""

    reads = (_LAYERS,)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        layers = getattr(config, _LAYERS, None)
        if layers is None:
            raise needs_target()
        if not (isinstance(layers, Sequence) and all(type(each) is int and each >= 0 for each in layers)):
            raise CheckpointError(f"{_LAYERS} is {str(layers)[:80]}", why="it must be a list of layers")
        if len(layers) != _N_LAYERS:
            raise NotSupportedYet(f"EAGLE-3 with the states of {len(layers)} layers", why="llama.cpp takes those of 3")
        return {"target_layers": i32s(layers)}


class _OneLayer(Rule):
    reads = ("num_hidden_layers",)

    def check(self, settings: Settings) -> None:
        if settings.get("num_hidden_layers") != 1:
            raise NotSupportedYet(
                f"EAGLE-3 with {settings.get('num_hidden_layers')} layers", why="llama.cpp's drafter has one"
            )


@dataclass(frozen=True)
class _Ids:
    """Distances, bytes [n, 8] of 64-bit integers, to ids: token i of the drafter is ``i + distance`` of the target's
    ``n_vocab``. As floats [n], or with ``stored`` as bytes [8 * n]."""

    n_vocab: int
    stored: bool = False

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        import torch

        (x,) = tensors
        distances = x if x.dtype == torch.int64 else x.contiguous().view(torch.int64)[:, 0]  # a pickle has numbers
        ids = distances + torch.arange(len(distances))
        n_twice = len(ids) - len({*ids.tolist()})
        if int(ids.min()) < 0 or int(ids.max()) >= self.n_vocab or n_twice:
            raise CheckpointError(
                "d2t is no table of the target's tokens",
                why=f"its ids are {int(ids.min()):,} to {int(ids.max()):,}, the target has {self.n_vocab:,} tokens, "
                f"and {n_twice:,} come twice",
                hint="name the model that the drafter was trained for with --target",
            )
        return [ids.view(torch.uint8) if self.stored else ids.float()]

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        import torch

        ids = tensors[0].long()
        return [(ids - torch.arange(len(ids), device=ids.device))[:, None].view(torch.uint8)]


def _translate(settings: Settings) -> dict[str, Any]:
    """The layer's settings may stand in a table of their own; what tells of the layer there counts."""
    layer = settings.get(_NESTED) or {}
    if not isinstance(layer, Mapping):
        raise CheckpointError(f"{_NESTED} in config.json is no table of settings")
    own = {name: value for name, value in settings.items() if name != _NESTED}
    return {"tie_word_embeddings": False, **own, **{k: v for k, v in layer.items() if k not in _NOT_OF_THE_LAYER}}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = decoder.dimensions(config)
    return {
        **sizes,
        "n_embd_2": 2 * sizes["n_embd"],
        "n_states": _N_LAYERS * (getattr(config, "target_hidden_size", None) or sizes["n_embd"]),
        "n_draft": getattr(config, "draft_vocab_size", None) or sizes["n_vocab"],
    }


def _linear(name: str, rows: str, columns: str, stem: str, *heads: str) -> Module:
    return Module(name, (rows, columns), stem=stem, operations=tuple(map(interleave_halves, heads)))


EAGLE3 = Architecture(
    name="eagle3",
    classes=dict.fromkeys(
        ("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator", "Eagle3DraftModel"), "llama"
    ),
    restored_as="llama",
    rules=(
        *decoder.RULES,
        Rope(("default", DYNAMIC, "linear", "yarn", "llama3")),
        _OneLayer(),
        _TargetLayers(),
        Count("target_hidden_size", "target_hidden_size"),
        Switch("norm_before_residual", "norm_before_residual"),
        Switch("norm_before_fc", "norm_before_fc"),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
        Fixed("tie_word_embeddings", False),
        Fixed("eagle_config", None),
    ),
    dimensions=_dimensions,
    outside=(
        Where("own_embedding", (Module("embed_tokens", ("n_vocab", "n_embd"), stem="token_embd"),)),
        Where("own_output", (Module("lm_head", ("n_draft", "n_embd"), stem="output"),)),
        Where(
            "own_tokens",
            (
                Tensors(
                    ("d2t",),
                    {"d2t": ("n_draft",)},
                    (lambda sizes: _Ids(sizes["n_vocab"]),),
                    quantized="I64",
                    stored=(lambda sizes: _Ids(sizes["n_vocab"], stored=True),),
                ),
            ),
        ),
        Where("norm_before_fc", (norm("input_norm", "n_states", stem="enc.output_norm"),)),
        _linear("fc", "n_embd", "n_states", "fc"),
        norm("norm", stem="output_norm"),
    ),
    block=every_layer(
        norm("input_layernorm", stem="attn_norm"),
        norm("hidden_norm", stem="attn_norm_2"),
        _linear("self_attn.q_proj", "n_embd_q", "n_embd_2", "attn_q", "n_head"),
        _linear("self_attn.k_proj", "n_embd_kv", "n_embd_2", "attn_k", "n_head_kv"),
        _linear("self_attn.v_proj", "n_embd_kv", "n_embd_2", "attn_v"),
        _linear("self_attn.o_proj", "n_embd", "n_embd_q", "attn_output"),
        norm("post_attention_layernorm", stem="ffn_norm"),
        _linear("mlp.gate_proj", "n_ff", "n_embd", "ffn_gate"),
        _linear("mlp.up_proj", "n_ff", "n_embd", "ffn_up"),
        _linear("mlp.down_proj", "n_embd", "n_ff", "ffn_down"),
    ),
    blocks="layers",
    constants=rope_freqs,
    ignored=(*LLAMA.ignored, r"^t2d$"),
    renames=_RENAMES,
    translate=_translate,
    own_code=True,
    drafts=True,
)


def beside(drafter: Checkpoint, target: Settings) -> Checkpoint:
    """``drafter`` with what its file tells of ``target``, which is that model's config.json (its language model's).

    Raises ``CheckpointError`` for a target that cannot be its own.
    """
    config = _translate(drafter.config)
    n_layer, width = (target.get(name) for name in ("num_hidden_layers", "hidden_size"))
    if type(n_layer) is not int or type(width) is not int:
        raise CheckpointError("the target's config.json does not tell its layers and the size of its states")
    tensors = drafter.renamed(_RENAMES).tensors
    told: dict[str, Any] = {setting: name in tensors for setting, name in _OWN.items()}
    states = config.get("target_hidden_size") or width
    if states != width:
        raise other_target(f"it takes states of {states} numbers, and the target's have {width}")
    if not told["own_embedding"] and config.get("hidden_size") != width:
        raise other_target(f"it has no embedding of its own, and the target's has {width} numbers for a token")
    if type(config.get("vocab_size")) is int and config["vocab_size"] != target.get("vocab_size"):
        raise other_target(f"it knows {config['vocab_size']:,} tokens, and the target {target.get('vocab_size')}")
    layers = told[_LAYERS] = config.get(_LAYERS) or [2, n_layer // 2, n_layer - 3]
    if isinstance(layers, list) and any(type(each) is int and each > n_layer for each in layers):
        raise other_target(f"it takes the states of layers {', '.join(map(str, layers))}, and the target has {n_layer}")
    ids = {name: target[name] for name in OF_THE_TARGET if name in target}
    switches = {name: bool(config.get(name)) for name in ("norm_before_residual", "norm_before_fc")}
    found = {**drafter.config, **switches, **told, **ids, "target_hidden_size": states}
    if _NESTED in drafter.config:
        found[_NESTED] = {k: v for k, v in drafter.config[_NESTED].items() if k not in found}
    return replace(drafter, config=found, tensors={k: _in_bytes(x) for k, x in drafter.tensors.items()})


def _in_bytes(info: Any) -> Any:
    """Ids are no floats: they are read as the bytes that they are."""
    if info.name.removeprefix("model.") != "d2t" or info.dtype != "I64" or len(info.shape) != 1:
        return info
    return replace(info, dtype="U8", shape=(*info.shape, _ID_BYTES))


def needs_target() -> CheckpointError:
    return CheckpointError(
        "this is a drafter, which is converted for the model that it drafts for",
        why="its file has that model's vocabulary, and tells which of its layers the states are from",
        hint="name it: hubquant convert DRAFTER --target MODEL",
    )


def other_target(why: str) -> CheckpointError:
    return CheckpointError(
        "the drafter is not for this target", why=why, hint="name the model that it was trained for with --target"
    )

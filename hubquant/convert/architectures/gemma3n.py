"""Gemma 3n (text): four streams of activations (AltUp), of which one goes through attention and the MLP.

Every layer has embeddings of its own, a low-rank path beside attention (Laurel), and in the first layers an MLP that
keeps only the largest activations. The last layers attend to the keys and values of layers before them. llama.cpp has
most of the family's sizes in its code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder
from hubquant.convert.operations import Dimensions, PadRows, Stack, always
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import (
    GELU,
    Constant,
    Count,
    Epsilon,
    Fixed,
    Heads,
    Rule,
    Settings,
    check_count,
    integer,
    is_number,
    out_of_range,
)
from hubquant.convert.rules.windows import RopeByLayer, Windows
from hubquant.convert.tables import Bundle, Embeddings, Module, Place, Row, Tensors, inputs_of, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, f32, f32s, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_STREAMS, _PER_LAYER, _RANK, _SOFTCAP = 4, 256, 64, 30.0
_OWN_KEYS = 20  # the layers that have keys and values; the others use theirs
_SPARSE_LAYERS, _SPARSITY = 10, 0.95
_SPARSITY_SCALE = 1.6448533535003662  # the quantile of the normal distribution at 0.95, as torch computes it
_MOST_LAYERS = 10_000


@dataclass(frozen=True)
class _OneWidth(Rule):
    """The width of the MLP, which config.json may tell for each layer."""

    reads = ("intermediate_size",)

    def check(self, settings: Settings) -> None:
        widths = settings.get("intermediate_size")
        for width in widths if isinstance(widths, list) else [widths]:
            check_count({"intermediate_size": width}, "intermediate_size", 1 << 24)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        widths = sorted(set(config.intermediate_size))
        if len(widths) != 1:
            raise NotSupportedYet(
                f"MLPs of {len(widths)} widths, from {widths[0]} to {widths[-1]}",
                why="llama.cpp gives all layers of Gemma 3n the same",
            )
        return {"feed_forward_length": u32(widths[0])}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        found = metadata["feed_forward_length"].value if "feed_forward_length" in metadata else None
        return {} if found is None else {"intermediate_size": list(found) if isinstance(found, tuple) else found}


@dataclass(frozen=True)
class _Sparsity(Rule):
    """The first layers keep the largest of their activations: those above the mean by so many standard deviations."""

    key = "activation_sparsity_scale"
    reads = ("activation_sparsity_pattern",)

    def check(self, settings: Settings) -> None:
        shares = settings.get("activation_sparsity_pattern")
        if shares is not None and not (isinstance(shares, list) and all(is_number(share) for share in shares)):
            raise out_of_range("activation_sparsity_pattern", shares, "a list of numbers")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        shares = self._shares(config.num_hidden_layers)
        if list(config.activation_sparsity_pattern) != shares:
            raise NotSupportedYet(
                "this activation_sparsity_pattern",
                why=f"llama.cpp computes {_SPARSITY} in the first {_SPARSE_LAYERS} layers and 0 in the others",
            )
        return {self.key: f32s(_SPARSITY_SCALE if share else -float("inf") for share in shares)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = min(integer(metadata, "block_count") or 0, _MOST_LAYERS)
        return {"activation_sparsity_pattern": self._shares(n_layer)}

    def _shares(self, n_layer: int) -> list[float]:
        return [_SPARSITY if layer < _SPARSE_LAYERS else 0.0 for layer in range(n_layer)]


@dataclass(frozen=True)
class _SharedKeys(Rule):
    """How many of the last layers use the keys and values of layers before them."""

    key = "attention.shared_kv_layers"
    reads = ("num_kv_shared_layers",)

    def check(self, settings: Settings) -> None:
        check_count(settings, "num_kv_shared_layers", _MOST_LAYERS, least=0)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        expected = self._count(config.num_hidden_layers)
        if config.num_kv_shared_layers != expected:
            raise NotSupportedYet(
                f"num_kv_shared_layers {config.num_kv_shared_layers}",
                why=f"in llama.cpp it is {expected} here: all of {config.num_hidden_layers} layers after {_OWN_KEYS}",
            )
        return {self.key: u32(expected)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {"num_kv_shared_layers": self._count(min(integer(metadata, "block_count") or 0, _MOST_LAYERS))}

    def _count(self, n_layer: int) -> int:
        return max(0, n_layer - _OWN_KEYS)


@dataclass(frozen=True)
class TableOfLayers(Rule):
    """The layers' embeddings may be for fewer tokens than the model has; a GGUF file has them for all."""

    reads = ("vocab_size_per_layer_input",)

    def check(self, settings: Settings) -> None:
        check_count(settings, "vocab_size_per_layer_input", 1 << 24)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        size = config.vocab_size_per_layer_input
        if config.hidden_size_per_layer_input and size > config.vocab_size:
            raise out_of_range("vocab_size_per_layer_input", size, f"no more than vocab_size {config.vocab_size}")
        return {}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return Count("vocab_size", "vocab_size_per_layer_input").settings(metadata)


@dataclass(frozen=True)
class _Unused(Module):
    """A tensor that llama.cpp wants and never computes with, of a module that the checkpoint may lack: zeros."""

    def bundles(self, place: Place) -> Iterator[Bundle]:
        yield Bundle((), {f"{place.stem(self.name)}.weight": place.shape(self.shape)}, values=(0.0,))


def pad_to_vocabulary(dimensions: Dimensions) -> PadRows:
    """Of the layers' embeddings."""
    return PadRows(dimensions["n_vocab_per_layer"], dimensions["n_vocab"])


def _stack(name: str, stem: str) -> Tensors:
    """The matrices of all streams but the first."""
    return Tensors(
        tuple(f"model.{name}.{stream}.weight" for stream in range(_STREAMS - 1)),
        {f"{stem}.weight": ("n_other_streams", "n_embd", "n_embd")},
        (always(Stack()),),
    )


_OUTSIDE: tuple[Row, ...] = (
    Embeddings(),
    norm("model.norm"),
    Module("model.embed_tokens_per_layer", ("n_vocab", "n_per_layer_all"), operations=(pad_to_vocabulary,)),
    linear("model.per_layer_model_projection", "n_per_layer_all", "n_embd"),
    norm("model.per_layer_projection_norm", "n_per_layer"),
    _stack("altup_projections", "altup_proj"),
    _stack("altup_unembed_projections", "altup_unembd_proj"),
)
_ROWS: tuple[Row, ...] = (
    norm("input_layernorm"),
    linear("self_attn.q_proj", "n_embd_q", "n_embd"),
    linear("self_attn.o_proj", "n_embd", "n_embd_q"),
    norm("self_attn.q_norm", "n_embd_head"),
    *decoder.gated_mlp(),
    norm("post_attention_layernorm"),
    norm("pre_feedforward_layernorm"),
    norm("post_feedforward_layernorm"),
    linear("per_layer_input_gate", "n_per_layer", "n_embd"),
    linear("per_layer_projection", "n_embd", "n_per_layer"),
    norm("post_per_layer_input_norm"),
    linear("altup.correction_coefs", "n_streams", "n_streams"),
    linear("altup.prediction_coefs", "n_streams_squared", "n_streams"),
    linear("altup.modality_router", "n_streams", "n_embd"),
    norm("altup.router_norm"),
    Tensors(("altup.correct_output_scale",), {"altup_correct_scale.weight": ("n_embd",)}),
    linear("laurel.linear_left", "n_rank", "n_embd"),
    linear("laurel.linear_right", "n_embd", "n_rank"),
    norm("laurel.post_laurel_norm"),
)


def _keys(row: type[Module], unused: str | None = None) -> tuple[Row, ...]:
    """Keys and values. Into those that no layer uses would flow what flows into the module ``unused``."""
    key, value, norm_ = "self_attn.k_proj", "self_attn.v_proj", "self_attn.k_norm"
    return (
        row(key, ("n_embd_kv", "n_embd"), tap=inputs_of(unused or key)),
        row(value, ("n_embd_kv", "n_embd"), tap=inputs_of(unused or value)),
        row(norm_, ("n_embd_head",)),
    )


_OWN: tuple[Row, ...] = _keys(Module)
_STORED: tuple[Row, ...] = _keys(Module, "self_attn.q_proj")
_LACKING: tuple[Row, ...] = _keys(_Unused, "self_attn.q_proj")


def _block(_config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    return (*_ROWS, *(_OWN if layer < _OWN_KEYS else _LACKING))


def _block_of_google(_config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    """Checkpoints that transformers has not saved again store keys and values that no layer uses."""
    return (*_ROWS, *(_OWN if layer < _OWN_KEYS else _STORED))


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return {
        **decoder.dimensions(config),
        "n_ff": config.intermediate_size[0],
        "n_vocab_per_layer": config.vocab_size_per_layer_input,
        "n_per_layer": _PER_LAYER,
        "n_per_layer_all": _PER_LAYER * config.num_hidden_layers,
        "n_streams": _STREAMS,
        "n_streams_squared": _STREAMS**2,
        "n_other_streams": _STREAMS - 1,
        "n_rank": _RANK,
    }


GEMMA3N = Architecture(
    name="gemma3n",
    classes={"Gemma3nForCausalLM": "gemma3n_text"},
    restored_as="gemma3n_text",
    rules=(
        Count("vocab_size", "vocab_size"),
        Count("context_length", "max_position_embeddings", most=(1 << 31) - 1),
        Count("embedding_length", "hidden_size"),
        Count("block_count", "num_hidden_layers", most=_MOST_LAYERS),
        _OneWidth(),
        Heads(),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        Fixed("attention_bias", False),
        Fixed("tie_word_embeddings", True),
        Fixed("hidden_activation", "gelu_pytorch_tanh", same=GELU),
        RopeByLayer(Rope(("default",))),
        Windows(period=5),
        Fixed("final_logit_softcapping", _SOFTCAP),
        Constant("final_logit_softcapping", f32(_SOFTCAP)),
        Fixed("altup_num_inputs", _STREAMS),
        Constant("altup.num_inputs", u32(_STREAMS)),
        Fixed("altup_active_idx", 0),
        Constant("altup.active_idx", u32(0)),
        Fixed("altup_correct_scale", True),
        Fixed("hidden_size_per_layer_input", _PER_LAYER),
        Constant("embedding_length_per_layer_input", u32(_PER_LAYER)),
        Fixed("laurel_rank", _RANK),
        TableOfLayers(),
        _Sparsity(),
        _SharedKeys(),
    ),
    dimensions=_dimensions,
    outside=_OUTSIDE,
    block=_block,
    otherwise=(f"model.layers.{_OWN_KEYS}.self_attn.k_proj.weight", _block_of_google),
)

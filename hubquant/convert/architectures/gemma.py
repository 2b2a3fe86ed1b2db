"""Gemma 1, 2 and 3 (text): norms stored without their 1, scaled embeddings, windows of attention in some layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.operations import AddOne, always
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import GELU, Epsilon, Fixed, Heads, Number, Rule, number
from hubquant.convert.rules.windows import QueryScale, RopeByLayer, Windows
from hubquant.convert.tables import Embeddings, Module, Row
from hubquant.gguf_file.metadata import Metadata, f32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_SIZES: tuple[Rule, ...] = (
    *decoder.SIZES,
    Heads(),
    Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    Fixed("attention_bias", False),
    Fixed("tie_word_embeddings", True),
)
_CAUSAL = Fixed("use_bidirectional_attention", False)
_WINDOWED: tuple[Rule, ...] = (*_SIZES, Fixed("hidden_activation", "gelu_pytorch_tanh", same=GELU))


@dataclass(frozen=True)
class _Cap(Number):
    """llama.cpp always caps here: for none, so far away that logits of 100 lose a hundred-thousandth."""

    none = 2.0**14

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {self.key: f32(getattr(config, self.setting) or self.none)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        found = number(metadata, self.key)  # without one, llama.cpp and transformers have the same
        return {} if found is None else {self.setting: None if found == self.none else found}


def norm(name: str, size: str = "n_embd", stem: str | None = None) -> Module:
    return Module(name, (size,), operations=(always(AddOne()),), stem=stem)


def _block(*norms_of_heads: Row) -> tuple[Row, ...]:
    return (
        norm("input_layernorm"),
        *decoder.attention(),
        *norms_of_heads,
        *decoder.gated_mlp(),
    )


# the norms before and after both halves of a layer
_SANDWICH: tuple[Row, ...] = (
    norm("post_attention_layernorm"),
    norm("pre_feedforward_layernorm"),
    norm("post_feedforward_layernorm"),
)
_OUTSIDE: tuple[Row, ...] = (Embeddings(), norm("model.norm"))
PERIOD_OF_3 = 6  # of the layers that see the whole text
RULES_OF_3: tuple[Rule, ...] = (
    *_WINDOWED,
    RopeByLayer(Rope(("default", "linear"))),
    Fixed("attn_logit_softcapping", None),
    Fixed("final_logit_softcapping", None),
)

GEMMA = Architecture(
    name="gemma",
    classes={"GemmaForCausalLM": "gemma"},
    restored_as="gemma",
    rules=(*_SIZES, _CAUSAL, Rope(("default",)), Fixed("hidden_act", "gelu_pytorch_tanh", same=GELU)),
    dimensions=decoder.dimensions,
    outside=_OUTSIDE,
    block=every_layer(*_block(), norm("post_attention_layernorm")),
)
GEMMA2 = Architecture(
    name="gemma2",
    classes={"Gemma2ForCausalLM": "gemma2"},
    restored_as="gemma2",
    rules=(
        *_WINDOWED,
        _CAUSAL,
        Rope(("default",)),
        Windows(period=2),
        QueryScale(n_layer_of_27b=46),
        _Cap("attn_logit_softcapping", "attn_logit_softcapping"),
        _Cap("final_logit_softcapping", "final_logit_softcapping"),
    ),
    dimensions=decoder.dimensions,
    outside=_OUTSIDE,
    block=every_layer(*_block(), *_SANDWICH),
)
GEMMA3 = Architecture(
    name="gemma3",
    classes={"Gemma3ForCausalLM": "gemma3_text"},
    restored_as="gemma3_text",
    rules=(*RULES_OF_3, _CAUSAL, Windows(PERIOD_OF_3), QueryScale(n_layer_of_27b=62)),
    dimensions=decoder.dimensions,
    outside=_OUTSIDE,
    block=every_layer(
        *_block(norm("self_attn.q_norm", "n_embd_head"), norm("self_attn.k_norm", "n_embd_head")), *_SANDWICH
    ),
)

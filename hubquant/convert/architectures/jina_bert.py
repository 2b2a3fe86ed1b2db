"""Jina's encoders: version 3, RoBERTa with rotary positions, and version 2, BERT that knows distances (ALiBi), whose
code is not part of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.checkpoint.headers import listed
from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import bert
from hubquant.convert.head_order import SwapHalves
from hubquant.convert.operations import Dimensions, always
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import GELU, Fixed, Rule, Settings
from hubquant.convert.tables import Row, linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


_ADAPTERS = "lora_adaptations"
_OF_V3 = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id"),
    _ADAPTERS,
)


def _translate(settings: Settings) -> Settings:
    """From the config.json of Jina's own code, which brings adapters for tasks."""
    if _ADAPTERS not in settings:
        return settings
    Fixed("position_embedding_type", "rotary").check(settings)
    rope = {"rope_type": "default", "rope_theta": settings.get("rotary_emb_base", 10000.0)}
    return {"rope_parameters": rope, **{name: settings[name] for name in _OF_V3 if name in settings}}


@dataclass(frozen=True)
class WithoutAdapters(Rule):
    """The adapters for tasks that ``setting`` names are no part of the file; ``rest`` is what the note ends with."""

    setting: str
    rest: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def notes(self, config: PreTrainedConfig) -> Iterator[str]:
        if names := getattr(config, self.setting, None):
            without = f"embeddings are those without a task, of {listed(names)}{self.rest}"
            yield f"the adapters of the model are left out: {without}"


JINA_BERT_V3 = Architecture(
    name="jina-bert-v3",
    classes=dict.fromkeys(("JinaEmbeddingsV3Model", "XLMRobertaModel"), "jina_embeddings_v3"),
    restored_as="jina_embeddings_v3",
    rules=(
        *bert.RULES,
        Rope(("default",)),
        Fixed("hidden_act", "gelu", same=GELU),
        bert.WholeHeads(),
        WithoutAdapters(_ADAPTERS),
    ),
    dimensions=bert.dimensions,
    outside=(*bert.EMBEDDINGS, norm("emb_ln", bias=True)),
    block=every_layer(
        bert.renamed_linear("mixer.Wqkv", "n_qkv", "n_embd", "self_attn.q_proj", bias=True),
        bert.renamed_linear("mixer.out_proj", "n_embd", "n_embd", "self_attn.o_proj", bias=True),
        norm("norm1", bias=True),
        bert.renamed_linear("mlp.fc1", "n_ff", "n_embd", "mlp.fc1", bias=True),
        bert.renamed_linear("mlp.fc2", "n_embd", "n_ff", "mlp.fc2", bias=True),
        norm("norm2", bias=True),
    ),
    blocks="encoder.layers",
    ignored=(*bert.HEADS, r"\.lora_[AB]$"),
    renames=((r"^(?:roberta\.)?(.*)\.parametrizations\.weight\.original$", r"\1.weight"), *bert.RENAMES),
    told_by_tensors=bert.told_by_tensors,
    layout=("type_vocab_size",),
    takes=lambda settings: _ADAPTERS in settings or settings.get("model_type") == "jina_embeddings_v3",
    translate=_translate,
    translated=(
        *("rotary_emb_base", "emb_pooler", "task_instructions", "position_embedding_type", _ADAPTERS, "lora_rank"),
        *("lora_alpha", "lora_dropout_p", "lora_main_params_trainable", "load_trained_adapters"),
        *("matryoshka_dimensions", "truncate_dim"),
    ),
    generates=False,
)
_ATTENTION: tuple[Row, ...] = (
    *(linear(f"attention.self.{name}", "n_embd", "n_embd", bias=True) for name in ("query", "key", "value")),
    linear("attention.output.dense", "n_embd", "n_embd", bias=True),
    norm("attention.output.LayerNorm", bias=True),
)
_FOR_CODE: tuple[Row, ...] = (
    *_ATTENTION,
    norm("attention.self.layer_norm_q", bias=True),
    norm("attention.self.layer_norm_k", bias=True),
    norm("layer_norm_1", bias=True),
    # llama.cpp activates the first half
    linear("mlp.up_gated_layer", "n_ff_both", "n_embd", operations=(always(SwapHalves()),)),
    linear("mlp.down_layer", "n_embd", "n_ff", bias=True),
    norm("layer_norm_2", bias=True),
)


def _as_bert(settings: Settings) -> Settings:
    for rule in (Fixed("position_embedding_type", "alibi"), Fixed("feed_forward_type", "geglu")):
        rule.check(settings)
    return {name: value for name, value in settings.items() if name != "position_embedding_type"}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return {**bert.dimensions(config), "n_ff_both": 2 * config.intermediate_size}


JINA_BERT_V2 = Architecture(
    name="jina-bert-v2",
    classes=dict.fromkeys(("JinaBertModel", "JinaBertForMaskedLM"), "bert"),
    restored_as="bert",
    rules=(*bert.RULES, Fixed("hidden_act", "gelu", same=GELU), Fixed("is_decoder", False), *bert.NO_OTHER),
    dimensions=_dimensions,
    outside=(*bert.EMBEDDINGS, norm("embeddings.LayerNorm", bias=True)),
    block=every_layer(
        *_ATTENTION,
        linear("mlp.gated_layers", "n_ff_both", "n_embd"),
        linear("mlp.wo", "n_embd", "n_ff", bias=True),
        norm("mlp.layernorm", bias=True),
    ),
    blocks="encoder.layer",
    ignored=bert.HEADS,
    renames=bert.RENAMES,
    told_by_tensors=bert.told_by_tensors,
    layout=("type_vocab_size",),
    translate=_as_bert,
    translated=("feed_forward_type", "emb_pooler", "alibi_starting_size", "attn_implementation", "model_max_length"),
    own_code=True,
    generates=False,
    otherwise=("encoder.layer.0.layer_norm_1.weight", every_layer(*_FOR_CODE)),
)

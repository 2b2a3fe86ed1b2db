"""DeepSeek V3.2 and GLM-5: DeepSeek V3's attention among the tokens that an indexer chooses, in GLM-5 perhaps that of a
layer before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.ahead import TABLES, Ahead
from hubquant.convert.architectures import deepseek
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope, raw_parameters, rope_type
from hubquant.convert.rules.rule import Count, Fixed, Rule, Settings, check_list, out_of_range
from hubquant.convert.rules.yarn import LatentYarn
from hubquant.convert.tables import Row, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, booleans

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_FULL, _SHARED = "full", "shared"


@dataclass(frozen=True)
class _Indexers(Rule):
    """Which layers have an indexer of their own; the others take the choice of the one before."""

    key = "attention.indexer.types"
    reads = ("indexer_types",)

    def check(self, settings: Settings) -> None:
        check_list(settings, "indexer_types")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        kinds = list(config.indexer_types)
        if len(kinds) != config.num_hidden_layers or not {*kinds} <= {_FULL, _SHARED} or kinds[0] != _FULL:
            raise out_of_range(
                "indexer_types", kinds, f"{_FULL} or {_SHARED} for each of {config.num_hidden_layers} layers"
            )
        return {self.key: booleans([kind == _FULL for kind in kinds])}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        found = metadata[self.key].value if self.key in metadata else None
        return {"indexer_types": [_FULL if own else _SHARED for own in found]} if isinstance(found, tuple) else {}


@dataclass(frozen=True)
class _PlainYarn(LatentYarn):
    """yarn with ``mscale`` and ``mscale_all_dim`` of 1, as DeepSeek V3.2 has them."""

    def check(self, settings: Settings) -> None:
        super().check(settings)
        parameters = raw_parameters(settings)
        if rope_type(parameters) == "yarn" and not math.isclose(parameters["mscale"], 1, rel_tol=1e-6):
            raise NotSupportedYet(f"yarn with mscale {parameters['mscale']}", why="llama.cpp takes it to be 1 here")


_INDEXER: tuple[Row, ...] = (
    linear("self_attn.indexer.wq_b", "n_index_queries", "n_lora_q"),
    linear("self_attn.indexer.wk", "n_index_key", "n_embd"),
    norm("self_attn.indexer.k_norm", "n_index_key", bias=True),
    linear("self_attn.indexer.weights_proj", "n_index_head", "n_embd"),
)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    heads, size = config.index_n_heads, config.index_head_dim
    sizes = {"n_index_head": heads, "n_index_key": size, "n_index_queries": heads * size}
    return {**deepseek.GLM4_MOE_LITE.dimensions(config), **sizes}


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    kinds = getattr(config, "indexer_types", None)
    own = kinds is None or kinds[layer] == _FULL
    return (*deepseek.GLM4_MOE_LITE.block(config, layer), *(_INDEXER if own else ()))


_RULES: tuple[Rule, ...] = (
    Count("attention.indexer.head_count", "index_n_heads", most=1 << 16),
    Count("attention.indexer.key_length", "index_head_dim", most=1 << 16),
    Count("attention.indexer.top_k", "index_topk"),
    Fixed("mlp_bias", False),
)
DEEPSEEK32 = replace(
    deepseek.GLM4_MOE_LITE,
    name="deepseek32",
    classes={"DeepseekV32ForCausalLM": "deepseek_v32"},
    restored_as="deepseek_v32",
    rules=(*(_PlainYarn() if rule == LatentYarn() else rule for rule in deepseek.GLM4_MOE_LITE.rules), *_RULES),
    dimensions=_dimensions,
    block=_block,
    ahead=Ahead(deepseek.rows_ahead, optional=(*TABLES, *_INDEXER)),
    marker=None,
    without_effect=("head_dim", "layer_types", "first_k_dense_replace"),  # made of other settings, or these of it
)
GLM_MOE_DSA = replace(
    DEEPSEEK32,
    name="glm-dsa",
    classes={"GlmMoeDsaForCausalLM": "glm_moe_dsa"},
    restored_as="glm_moe_dsa",
    rules=(
        *(Rope(("default",)) if rule == _PlainYarn() else rule for rule in DEEPSEEK32.rules),
        _Indexers(),
        Fixed("indexer_rope_interleave", True),
    ),
)

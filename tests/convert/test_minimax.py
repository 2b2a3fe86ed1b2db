"""MiniMax's models: what of them llama.cpp does not compute."""

from __future__ import annotations

from typing import Any

import pytest

from hubquant.convert.config import read_architecture
from hubquant.convert.conversion import architecture_metadata
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet
from tests.convert.test_llama_cpp import MINIMAX_M3

HALF = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
REFUSED: dict[str, tuple[dict[str, Any], type[HubquantError], str]] = {
    "other layers": ({"layer_types": ["full_attention"] * 2}, NotSupportedYet, "other layers than those with experts"),
    "a dense layer last": ({"mlp_layer_types": ["sparse", "dense"]}, NotSupportedYet, "order of dense layers"),
    "heads": ({"index_n_heads": 4}, NotSupportedYet, "4 heads of the indexer for 2 key-value heads"),
    "local blocks": ({"index_local_blocks": 17}, CheckpointError, "no more than index_topk_blocks"),
    "score": ({"sparse_attention_config": {"sparse_score_type": "mean"}}, NotSupportedYet, "sparse_score_type 'mean'"),
    "first blocks": ({"sparse_attention_config": {"sparse_init_block": 1}}, NotSupportedYet, "sparse_init_block '1'"),
    "shared experts": ({"shared_intermediate_size": 96}, NotSupportedYet, "96 wide beside others of 64"),
    "rope": ({"rope_parameters": HALF}, CheckpointError, "tells that 16 of the 64 in a head are rotated"),
    "the indexer's rope": ({"index_head_dim": 16}, CheckpointError, "at least rotary_dim, 32"),
    "activation": ({"swiglu_limit": 5.0}, NotSupportedYet, r"swiglu_limit '5\.0'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_computes_otherwise_is_refused(case: str) -> None:
    changes, error, message = REFUSED[case]
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    with pytest.raises(error, match=message):
        architecture_metadata(*read_architecture({"model_type": "minimax_m3_vl_text"} | sizes | MINIMAX_M3 | changes))

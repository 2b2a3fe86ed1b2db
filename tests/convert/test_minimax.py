"""MiniMax's models: what of them llama.cpp does not compute, and rope on a part of each head, which transformers does
not compute in the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hubquant.convert.config import read_architecture
from hubquant.convert.conversion import architecture_metadata
from hubquant.convert.restore import load_model
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet
from tests.convert.test_llama_cpp import IDS, MINIMAX_01, MINIMAX_M3, logits, relative_error
from tests.convert.test_own_code import MINIMAX, OWN_OF_MINIMAX
from tests.support.conversion import build_uneven, configure, plan, write_gguf
from tests.support.llamacpp import LlamaCpp

HALF = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
OF_M3: dict[str, tuple[dict[str, Any], type[HubquantError], str]] = {
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


OF_01: dict[str, tuple[dict[str, Any], type[HubquantError], str]] = {
    "factors": ({"mlp_alpha_factor": 2.0}, NotSupportedYet, "factors that differ"),
    "other factors": ({"mlp_beta_factor": 2.0}, NotSupportedYet, "factors that differ"),
    "windows": ({"sliding_window": 64}, NotSupportedYet, "sliding_window '64'"),
    "layers": ({"layer_types": ["linear_attention"] * 2}, CheckpointError, "number of `layer_types`"),
    "one layer": (
        {"num_hidden_layers": 1, "layer_types": ["linear_attention"]},
        NotSupportedYet,
        "one layer of lightning attention",
    ),
    "rope": ({"rotary_dim": 32}, NotSupportedYet, "rope on 32 of 64 in each head"),
    "epsilon": ({"rms_norm_eps": 1e-4}, NotSupportedYet, "lightning attention with 1e-6 all the same"),
}
CASES = [("minimax_m3_vl_text", MINIMAX_M3 | {"num_hidden_layers": 2}, *case) for case in OF_M3.values()]
CASES += [("minimax", MINIMAX_01, *case) for case in OF_01.values()]


@pytest.mark.parametrize(("kind", "model", "changes", "error", "message"), CASES, ids=[*OF_M3, *OF_01])
def test_what_llama_cpp_computes_otherwise_is_refused(
    kind: str, model: dict[str, Any], changes: dict[str, Any], error: type[HubquantError], message: str
) -> None:
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    with pytest.raises(error, match=message):
        architecture_metadata(*read_architecture({"model_type": kind} | sizes | model | changes))


def test_half_of_each_head_may_be_rotated(tmp_path: Path) -> None:
    """Heads whose numbers change places, the last of which turn by nothing, are rotated so in transformers too."""
    pytest.importorskip("xllamacpp")
    folder, file = build_uneven("minimax", tmp_path / "model", **MINIMAX_01), tmp_path / "model.gguf"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    pairs = torch.arange(64).view(2, 2, 16).transpose(0, 1).flatten()
    attention = model.model.layers[1].self_attn
    for module in (attention.q_proj, attention.k_proj):
        rows = module.weight.data.unflatten(0, (-1, 64))
        module.weight.data = rows[:, pairs].flatten(0, 1).contiguous()
    turns = 1e6 ** -(torch.arange(16) / 16)
    model.model.rotary_emb.inv_freq.copy_(torch.cat([turns, torch.zeros(16)]))
    configure(
        folder,
        architectures=["MiniMaxM1ForCausalLM"],
        model_type="own",
        **(MINIMAX | OWN_OF_MINIMAX | {"rotary_dim": 32}),
    )
    write_gguf(folder, file, "F32")
    with LlamaCpp(file) as llama:
        found = llama.logits(IDS)
    assert relative_error(found, logits(model)) <= 1e-3
    assert np.array_equal(found.argmax(-1), logits(model).argmax(-1))
    with pytest.raises(NotSupportedYet, match="rope on 32 of 64 in each head"):
        load_model(file)
    assert plan(configure(folder, rotary_dim=64)).metadata["minimax-01.rope.dimension_count"].value == 64

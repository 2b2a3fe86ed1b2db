"""DeepSeek V4 as it is published: other names, FP8 and MXFP4; and what llama.cpp does not compute of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.config import read_architecture
from hubquant.convert.conversion import architecture_metadata, plan_conversion, stream
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet
from tests.convert.test_llama_cpp import DEEPSEEK4, YARN
from tests.support.conversion import Weights, build_uneven, configure, edit_weights

REFUSED: dict[str, tuple[dict[str, Any], type[HubquantError], str]] = {
    "nothing compressed": (
        {"layer_types": ["sliding_attention"] * 4},
        NotSupportedYet,
        "no layer of compressed",
    ),
    "the indexer's heads": ({"index_head_dim": 128}, NotSupportedYet, "index_head_dim 128, as head_dim"),
    "the indexer's rope": ({"index_head_dim": 16}, CheckpointError, "at least the 32 that are rotated"),
    "rates": ({"compress_rates": {"compressed_sparse_attention": 8}}, NotSupportedYet, "llama.cpp has 4 and 128"),
    "order of hashes": ({"mlp_layer_types": ["moe", "hash_moe", "moe", "moe"]}, NotSupportedYet, "order of layers"),
    "groups": ({"o_groups": 3}, CheckpointError, "a divisor of the 4 heads"),
    "streams": ({"hc_mult": 2}, NotSupportedYet, "hc_mult '2'"),
    "scores": ({"scoring_func": "sigmoid"}, NotSupportedYet, "scoring_func 'sigmoid'"),
    "yarn's scale": ({"rope_parameters": YARN | {"attention_factor": 1.2}}, NotSupportedYet, "a scale of its own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_computes_otherwise_is_refused(case: str) -> None:
    changes, error, message = REFUSED[case]
    given = {"model_type": "deepseek_v4", "num_attention_heads": 4, "hidden_size": 256} | DEEPSEEK4 | changes
    with pytest.raises(error, match=message):
        architecture_metadata(*read_architecture({name: x for name, x in given.items() if x is not ...}))


VALUES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def as_published(weights: Weights) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in list(weights):
        x = weights.pop(name)
        new = name.removeprefix("model.").replace(".attn.norm.", ".attn.kv_norm.").replace("embed_tokens", "embed")
        new = re.sub(r"hc_head\.hc_", "hc_head_", new)
        if ".experts." in new:
            x = torch.randint(-128, 128, (x.shape[0], x.shape[1] // 2), generator=generator, dtype=torch.int8)
            exponents = torch.randint(120, 130, (x.shape[0], x.shape[1] // 16), generator=generator, dtype=torch.uint8)
            weights[new.replace("weight", "scale")] = exponents.view(torch.float8_e8m0fnu)
        elif re.search(r"\.(wq_a|wq_b|wkv|wo_a|wo_b|w[123])\.weight$", new) and "compressor" not in new:
            x = x.to(torch.float8_e4m3fn)
            blocks = [-(-n // 128) for n in x.shape]
            exponents = torch.randint(124, 130, blocks, generator=generator, dtype=torch.uint8)
            weights[new.replace("weight", "scale")] = exponents.view(torch.float8_e8m0fnu)
        weights[new] = x.int() if new.endswith("tid2eid") else x
    weights["mtp.0.norm.weight"] = torch.ones(256)


def test_published_names_and_types(tmp_path: Path) -> None:
    folder = build_uneven("deepseek_v4", tmp_path / "model", **DEEPSEEK4)
    kept: Weights = {}

    def edit(weights: Weights) -> None:
        as_published(weights)
        kept.update(weights)

    edit_weights(folder, edit)
    quantization = {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}
    configure(
        folder,
        quantization_config=quantization,
        expert_dtype="fp4",
        compress_ratios=[0, 4, 128, 4, 0],
        num_hash_layers=1,
        qk_rope_head_dim=32,
        rope_scaling={"type": "yarn", "factor": 16, "original_max_position_embeddings": 64},
        topk_method="noaux_tc",
        **dict.fromkeys(("layer_types", "mlp_layer_types", "compress_rates", "rope_parameters"), ...),
        partial_rotary_factor=...,
    )
    checkpoint = Checkpoint.from_folder(folder)
    conversion = plan_conversion(folder, checkpoint)
    assert any("MXFP4" in note for note in conversion.notes)
    assert any("mtp.0.norm.weight" in note for note in conversion.notes)
    assert conversion.metadata["deepseek4.attention.compress_ratios"].value == (0, 4, 128, 4)
    assert conversion.metadata["deepseek4.rope.scaling.factor"].value == 16
    assert conversion.quantized == {"blk.0.ffn_gate_tid2eid.weight": "I32"}
    assert {type for name, type in conversion.exact.items() if "_exps" in name} == {"MXFP4"}
    found = dict(stream(conversion, checkpoint))
    assert torch.equal(found["blk.0.ffn_gate_tid2eid.weight"], kept["layers.0.ffn.gate.tid2eid"].float())
    matrix, scales = (kept[f"layers.1.attn.wq_b.{part}"].float() for part in ("weight", "scale"))
    whole = scales.repeat_interleave(128, 0)[: matrix.shape[0]].repeat_interleave(128, 1)[:, : matrix.shape[1]]
    assert torch.equal(found["blk.1.attn_q_b.weight"].float(), matrix * whole)
    codes = kept["layers.1.ffn.experts.3.w2.weight"].view(torch.uint8).long()
    codes = torch.stack([codes & 15, codes >> 4], -1).flatten(1)
    numbers = VALUES[codes & 7] * torch.where(codes > 7, -1.0, 1.0)
    factors = kept["layers.1.ffn.experts.3.w2.scale"].float().repeat_interleave(32, 1)
    assert torch.equal(found["blk.1.ffn_down_exps.weight"][3].float(), numbers * factors)
    assert torch.equal(found["output_hc_fn.weight"], kept["hc_head_fn"])

"""DBRX, whose config.json tells the base of rope where transformers does not look for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hubquant.convert.config import read_architecture
from hubquant.convert.conversion import architecture_metadata
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet
from hubquant.models.load import Placement
from hubquant.models.tiny import build
from hubquant.sources.checkpoint import load_folder
from tests.convert.test_llama_cpp import DBRX
from tests.convert.test_published_older_configs import PUBLISHED
from tests.support.conversion import configure

INSTRUCT = PUBLISHED["DBRX Instruct"]


def base_of(**changes: Any) -> object:
    given = {name: value for name, value in (INSTRUCT | changes).items() if value is not ...}
    return architecture_metadata(*read_architecture(given))["dbrx.rope.freq_base"].value


def attention(**changes: Any) -> dict[str, Any]:
    given = INSTRUCT["attn_config"] | changes
    return {"attn_config": {name: value for name, value in given.items() if value is not ...}}


def test_the_base_of_rope() -> None:
    assert base_of() == 500000.0
    assert base_of(rope_theta=500000) == 500000.0
    assert base_of(**attention(rope_theta=...), rope_theta=20000.0) == 20000.0
    assert base_of(**attention(rope_theta=...)) == 10000.0


def test_the_model_rotates_by_it(tmp_path: Path) -> None:
    folder = build("dbrx", tmp_path / "model", **DBRX)
    ids = torch.arange(3, 60)[None]
    expected = load_folder(folder, "cpu")(ids).logits
    configure(folder, rope_parameters=...)
    assert torch.equal(load_folder(folder, "cpu")(ids).logits, expected)


def test_its_experts_are_not_offloaded(tmp_path: Path) -> None:
    folder = build("dbrx", tmp_path / "model", **DBRX)
    with pytest.raises(NotSupportedYet, match="offloading parts of DbrxForCausalLM"):
        load_folder(folder, "cpu", Placement(max_memory={"cpu": "100KB"}, disk=tmp_path / "disk"))


REFUSED: dict[str, tuple[type[HubquantError], str, dict[str, Any]]] = {
    "two bases": (
        CheckpointError,
        "500000 in attn_config and 10000 outside",
        {"rope_parameters": {"rope_theta": 10000}},
    ),
    "no clipping": (NotSupportedYet, "clip_qkv", attention(clip_qkv=None)),
    "no table": (CheckpointError, "a table", {"attn_config": "whole"}),
    "no base": (CheckpointError, "rope_theta", attention(rope_theta="large")),
    "stretched": (NotSupportedYet, "'linear'", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "odd groups": (CheckpointError, "a divisor of the 48", attention(kv_n_heads=7)),
    "gelu": (NotSupportedYet, "ffn_act_fn", {"ffn_config": INSTRUCT["ffn_config"] | {"ffn_act_fn": {"name": "gelu"}}}),
    "another norm": (
        *(NotSupportedYet, "moe_normalize_expert_weights"),
        {"ffn_config": INSTRUCT["ffn_config"] | {"moe_normalize_expert_weights": 2.0}},
    ),
    "no experts": (
        *(CheckpointError, "moe_num_experts"),
        {"ffn_config": INSTRUCT["ffn_config"] | {"moe_num_experts": 0}},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    kind, text, changes = REFUSED[name]
    with pytest.raises(kind, match=text):
        base_of(**changes)

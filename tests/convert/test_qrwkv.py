"""Qwen 2 with RWKV 6 in the place of attention, of which transformers has no code: the formulas stand for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hubquant.convert.restore import read_state_dict
from hubquant.errors import HubquantError
from hubquant.gguf_file import GGUFFile
from hubquant.models.tiny import build
from tests.support import qrwkv
from tests.support.collecting import assert_llama_cpp_collects
from tests.support.conversion import Weights, assert_same, configure, edit_weights, plan, relative_error, write_gguf
from tests.support.llamacpp import LlamaCpp

pytest.importorskip("xllamacpp")

IDS = [(7 * i * i + 3 * i) % 380 + 1 for i in range(80)]


def model(folder: Path) -> Path:
    build("qwen2", folder)
    (folder / "config.json").write_text(json.dumps(qrwkv.CONFIG))
    save_file(qrwkv.weights(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_logits_and_what_is_read_back(tmp_path: Path) -> None:
    folder, file = model(tmp_path / "model"), tmp_path / "model.gguf"
    conversion = write_gguf(folder, file, "F32")
    assert conversion.architecture == "rwkv6qwen2"
    assert "transformers lacks its code" in str(conversion.cannot_run)
    (note,) = conversion.notes
    assert "e^-5" in note
    expected = qrwkv.logits(qrwkv.weights(), IDS)
    with LlamaCpp(file) as llama:
        found = torch.from_numpy(llama.logits(IDS))
    assert relative_error(found, expected) <= 1e-4
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    assert_same(dict(read_state_dict(GGUFFile.open(file))), qrwkv.weights())


@pytest.mark.slow
def test_llama_cpp_collects_what_flows_into_its_matrices(tmp_path: Path) -> None:
    assert_llama_cpp_collects(model(tmp_path / "model"), tmp_path)


def test_ranks_that_are_left_out(tmp_path: Path) -> None:
    def wider(weights: Weights) -> None:
        for name, x in weights.items():
            if name.endswith("maa_w1"):
                weights[name] = torch.zeros(qrwkv.WIDTH, 5 * 32)
            if name.endswith("maa_w2"):
                weights[name] = torch.zeros(5, 32, qrwkv.WIDTH)
            if name.endswith("decay_w1"):
                weights[name] = torch.zeros(qrwkv.WIDTH, 64)
            if name.endswith("decay_w2"):
                weights[name] = torch.zeros(64, x.shape[1])

    folder = edit_weights(model(tmp_path / "model"), wider)
    metadata = plan(configure(folder, lora_rank_tokenshift=..., lora_rank_decay=None)).metadata
    found = [metadata[f"rwkv6qwen2.time_{name}_extra_dim"].value for name in ("mix", "decay")]
    assert found == [32, 64]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rotated": ({"use_rope": True}, "use_rope"),
    "a gate of low rank": ({"gate_rank_type": 2}, "gate_rank_type"),
    "norms of heads": ({"groupnorm_att": True}, "groupnorm_att"),
    "keys as they are": ({"balance_state": False}, "balance_state"),
    "no token before": ({"use_tokenshift": False}, "use_tokenshift"),
    "a bias behind": ({"attention_output_bias": True}, "attention_output_bias"),
    "wide heads": ({"head_dim": 64}, "as wide as the model"),
    "a rank in words": ({"lora_rank_decay": "64"}, "lora_rank_decay"),
    "another rank": ({"lora_rank_decay": 64}, "shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_llama_cpp_does_not_compute(case: str, tmp_path: Path) -> None:
    changes, reason = REFUSED[case]
    with pytest.raises(HubquantError, match=reason):
        plan(configure(model(tmp_path / "model"), **changes))

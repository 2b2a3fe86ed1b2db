"""Windows of attention that transformers has and llama.cpp has not: said, and true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hubquant.convert.config import read_architecture
from hubquant.convert.restore import load_model
from tests.convert.test_llama_cpp import IDS, logits, relative_error
from tests.support.cli import hubquant
from tests.support.conversion import build_uneven, write_gguf
from tests.support.llamacpp import LlamaCpp

QWEN = {"use_sliding_window": True, "max_window_layers": 3}
WINDOWED: dict[str, tuple[dict[str, Any], str]] = {
    "MistralForCausalLM": ({}, "all of them, not"),
    "MixtralForCausalLM": ({}, "all of them, not"),
    "Ministral3ForCausalLM": ({}, "all of them, not"),
    "Phi3ForCausalLM": ({}, "all of them, not"),
    "Starcoder2ForCausalLM": ({}, "all of them, not"),
    "Qwen2ForCausalLM": (QWEN, "in 5 of 8 layers"),
    "Qwen3ForCausalLM": (QWEN, "in 5 of 8 layers"),
    "Qwen2MoeForCausalLM": (QWEN, "in 2 of 8 layers"),
    "Qwen3MoeForCausalLM": (QWEN, "all of them, not"),
    "SmolLM3ForCausalLM": ({"use_sliding_window": True}, "in 2 of 8 layers"),
}


def notes(name: str, **settings: Any) -> tuple[str, ...]:
    given = {"architectures": [name], "num_hidden_layers": 8, "norm_topk_prob": name == "Qwen3MoeForCausalLM"}
    architecture, config = read_architecture(given | settings)
    return architecture.notes(config)


@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_that_llama_cpp_has_not_is_noted(name: str) -> None:
    settings, where = WINDOWED[name]
    (note,) = notes(name, sliding_window=4096, max_position_embeddings=32768, **settings)
    assert note.startswith("texts of more than 4,096 tokens come out otherwise")
    assert where in note
    assert not notes(name, sliding_window=4096, max_position_embeddings=4096, **settings)
    assert not notes(name, sliding_window=None, max_position_embeddings=32768, **settings)


@pytest.mark.parametrize("name", ["Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"])
def test_a_window_that_is_off_is_none(name: str) -> None:
    """Qwen2.5 has the numbers in its config.json and ``use_sliding_window`` false."""
    assert not notes(name, sliding_window=32768, max_position_embeddings=131072, use_sliding_window=False)
    assert not notes(name, sliding_window=0, max_position_embeddings=131072)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("mistral", {"sliding_window": 64}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}),
    ],
)
def test_the_file_is_the_original_up_to_the_window(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder = build_uneven(family, tmp_path / "model", **settings)
    expected = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    (note,) = write_gguf(folder, tmp_path / "model.gguf", "F32").notes
    assert "more than 64 tokens" in note
    assert note in " ".join(hubquant("plan", str(folder), "-t", "Q8_0").out.split())
    with LlamaCpp(tmp_path / "model.gguf") as llama:
        found = llama.logits(IDS)
    assert relative_error(found[:64], expected[:64]) <= 1e-3
    assert relative_error(found[64:], expected[64:]) >= 0.1
    # what is measured is what llama.cpp computes
    assert relative_error(logits(load_model(tmp_path / "model.gguf")), found) <= 1e-3
    assert np.isfinite(found).all()

"""MiniCPM's code is not part of transformers: a Granite with the same factors stands for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hubquant.convert.restore import load_model
from hubquant.errors import CheckpointError
from tests.support.cli import hubquant
from tests.support.conversion import build_uneven, plan, write_gguf
from tests.support.llamacpp import LlamaCpp

pytest.importorskip("xllamacpp")

IDS = list(range(3, 103))
CLASS, STAND_IN = "MiniCPMForCausalLM", "granite"


def minicpm(folder: Path) -> Path:
    """4 heads of 64, 2 layers."""
    build_uneven(
        STAND_IN,
        folder,
        embedding_multiplier=12.0,
        residual_multiplier=1.4 / 2**0.5,
        logits_scaling=4.0,
        attention_multiplier=64**-0.5,
    )
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name in ("embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier"):
        del config[name]
    own = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 64, "rope_scaling": None}
    path.write_text(json.dumps(config | own | {"architectures": [CLASS], "model_type": "minicpm"}))
    return folder


def test_logits_equal_those_of_the_granite_with_its_factors(tmp_path: Path) -> None:
    folder, file = minicpm(tmp_path / "model"), tmp_path / "model.gguf"
    conversion = write_gguf(folder, file, "F32")
    assert conversion.architecture == "minicpm"
    restored = load_model(file)
    assert restored.config.embedding_multiplier == 12
    with torch.no_grad():
        expected = restored(torch.tensor([IDS])).logits[0].numpy()
    with LlamaCpp(file) as llama:
        found = llama.logits(IDS)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def test_quantizing_alone_is_possible(tmp_path: Path) -> None:
    folder = minicpm(tmp_path / "model")
    made = hubquant("quantize", str(folder), "--type", "Q8_0", "--out", str(tmp_path / "files"))
    assert made.code == 0, made.err
    refused = hubquant("plan", str(folder))
    assert refused.code == 2
    assert "transformers lacks its code" in refused.err


def test_factors_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = minicpm(tmp_path)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["scale_depth"]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="scale_depth"):
        plan(folder)

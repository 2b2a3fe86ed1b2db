"""A loaded model with other numbers in its weights, and with its own afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hubquant.errors import CheckpointError
from hubquant.models.language_model import LanguageModel
from hubquant.models.replaced import replaced
from hubquant.models.tiny import build
from hubquant.recipe.schema import ModelReference
from hubquant.sources.open import open_source

IDS = torch.arange(3, 20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_others_for_a_while(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = build("llama", tmp_path / "tied", tie_word_embeddings=True, dtype=dtype)
    model = open_source(ModelReference(folder=str(folder))).load(device="cpu")
    before = LanguageModel(model)(IDS)
    weights = dict(model.named_parameters(remove_duplicate=False))
    zeros = {"model.embed_tokens.weight": torch.zeros(weights["lm_head.weight"].shape)}
    with replaced(model, zeros):
        assert not LanguageModel(model)(IDS).any()  # the output layer is the embedding
    with replaced(model, {"model.layers.1.mlp.up_proj.weight": torch.zeros(512, 256)}):
        assert not torch.equal(LanguageModel(model)(IDS), before)
    assert torch.equal(LanguageModel(model)(IDS), before)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[name] is weights[name] for name in weights)


def test_what_the_model_does_not_have(tmp_path: Path) -> None:
    model = open_source(ModelReference(folder=str(build("llama", tmp_path / "tiny")))).load(device="cpu")
    for wrong in ({"model.layers.9.mlp.up_proj.weight": torch.zeros(1)}, {"lm_head.weight": torch.zeros(2, 2)}):
        with pytest.raises(CheckpointError, match="does not fit"), replaced(model, wrong):
            pass

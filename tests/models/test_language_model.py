"""Logits of a model, wherever its weights are."""

from __future__ import annotations

from pathlib import Path

import torch

from hubquant.models.language_model import LanguageModel
from hubquant.models.load import Placement
from hubquant.models.tiny import build
from hubquant.sources.checkpoint import load_folder


def test_logits_of_a_model_in_memory_and_on_disk(tmp_path: Path) -> None:
    folder = build("llama", tmp_path / "model", num_hidden_layers=2)
    ids = torch.arange(3, 40)
    model = load_folder(folder, "cpu")
    logits = LanguageModel(model)(ids)
    assert logits.shape == (37, model.config.vocab_size)
    # No token sees those after it; a matrix of other rows is multiplied in another order.
    torch.testing.assert_close(LanguageModel(model)(ids[:20]), logits[:20], rtol=0, atol=1e-4)
    for first in (17, 36):
        torch.testing.assert_close(LanguageModel(model)(ids, first), logits[first:], rtol=0, atol=1e-4)
    offloaded = load_folder(folder, "cpu", Placement(max_memory={"cpu": "100KB"}, disk=tmp_path / "disk"))
    assert offloaded.device.type == "meta"
    torch.testing.assert_close(LanguageModel(offloaded)(ids), logits)

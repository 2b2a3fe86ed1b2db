"""Jina's embeddings of version 5: a class of their own for EuroBERT and for Qwen3, with adapters in folders beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from hubquant.convert.restore import load_model
from hubquant.recipe.schema import ModelReference
from hubquant.sources.checkpoint import load_folder
from hubquant.sources.open import open_source
from tests.convert.test_published_configs import code
from tests.support import adapters
from tests.support.conversion import assert_same, build_uneven, configure, write_gguf
from tests.support.llamacpp import LlamaCpp

IDS = list(range(3, 53))
TASKS = ["retrieval", "text-matching"]
BASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "nano": (
        "eurobert",
        {"pad_token_id": 0},
        {"is_decoder": False, "classifier_pooling": ..., "clf_pooling": "late", "mask_token": "<|mask|>"},
    ),
    "small": ("qwen3", {"tie_word_embeddings": True}, {}),
}


def build(name: str, folder: Path) -> Path:
    family, settings, own = BASES[name]
    build_uneven(family, folder, **settings)
    brought = code("jina_embeddings_v5", "JinaEmbeddingsV5Model")
    return configure(
        folder,
        architectures=["JinaEmbeddingsV5Model"],
        model_type="jina_embeddings_v5",
        task_names=TASKS,
        **own,
        **brought,
    )


@pytest.mark.parametrize("name", BASES)
def test_embeddings_are_those_of_the_base(name: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder, file = build(name, tmp_path / "model"), tmp_path / "model.gguf"
    plain = build_uneven(BASES[name][0], tmp_path / "plain", **BASES[name][1])
    conversion = write_gguf(folder, file, "F32")
    assert conversion.architecture == BASES[name][0]
    assert conversion.metadata[f"{conversion.architecture}.pooling_type"].value == 3
    assert "without a task, of retrieval, text-matching; the folder adapters" in " ".join(conversion.notes)
    assert not conversion.cannot_run
    model = AutoModel.from_pretrained(plain, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).last_hidden_state[0]
        restored = load_model(file)
        again = getattr(restored, "model", restored)(torch.tensor([IDS])).last_hidden_state[0]
    assert torch.allclose(again, expected, atol=1e-4)
    with LlamaCpp(file, encoder=True) as llama:
        found = torch.from_numpy(llama.embeddings(IDS))
    assert (found - expected).abs().max() <= 2e-3 * expected.abs().max()


@pytest.mark.parametrize("name", BASES)
def test_a_task_is_an_adapter_in_its_base(name: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path / "model")
    changes = adapters.factors(folder, ("q_proj", "down_proj"))
    adapter = adapters.save(folder / "adapters" / "retrieval", folder, changes)
    source = open_source(ModelReference(folder=str(adapter), merge=str(folder)))
    found = source.load(device="cpu").state_dict()
    expected = load_folder(adapters.merged(tmp_path / "merged", folder, changes, lambda _: 2.0), "cpu").state_dict()
    assert_same(found, expected)

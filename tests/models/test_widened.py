"""Weights that are widened when they are used give what weights in float32 give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import linear

from hubquant.calibration import Chunks
from hubquant.models.language_model import LanguageModel
from hubquant.models.widened import TILE, Widened
from hubquant.observe import collect
from hubquant.sources.checkpoint import load_folder
from tests.convert.test_llama_cpp import IDS, MODELS
from tests.support.conversion import build_uneven, plan

NAMES = (  # experts of every kind, embeddings with factors, states, convolutions, latents
    "gemma4 small",
    "granitemoe",
    "mamba2",
    "jamba",
    "lfm2",
    "deepseek2",
    "glm4_moe",
    "gpt_oss",
    "gpt2",
    "qwen3_next",
    "llama4",
)
CHUNKS = Chunks(torch.tensor([IDS[:80], IDS[80:]]), ("x",), (2,), "0")


def widened(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if isinstance(parameter, Widened)}


def in_float32(model: Any) -> Any:
    whole: dict[Any, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, Widened):
                copy = torch.nn.Parameter(parameter.stored.float(), requires_grad=False)
                module._parameters[name] = whole.setdefault(parameter, copy)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_as_in_float32(name: str, tmp_path: Path) -> None:
    family, config = MODELS[name]
    folder = build_uneven(family, tmp_path / "model", **config, dtype=torch.bfloat16)
    model, taps = load_folder(folder, "cpu"), plan(folder).taps
    assert all((parameter.ndim > 1) == isinstance(parameter, Widened) for parameter in model.parameters())
    ids = CHUNKS.ids[0]
    logits, sums = LanguageModel(model)(ids), collect(model, CHUNKS, taps).matrix()
    reference = in_float32(model)
    assert not widened(reference)
    assert torch.equal(logits, LanguageModel(reference)(ids))
    for weight, entry in collect(reference, CHUNKS, taps).matrix().entries.items():
        assert torch.equal(sums.entries[weight].in_sum2, entry.in_sum2)
        assert torch.equal(sums.entries[weight].counts, entry.counts)


def test_products_in_parts() -> None:
    n = 4096
    columns = 2 * TILE // n + 7
    stored = torch.randn(columns, n, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight, whole, bias = Widened(stored), stored.float(), torch.arange(float(columns))
    for x in (torch.randn(5, n), torch.randn(2, 3, n), torch.randn(n), torch.randn(0, n)):
        torch.testing.assert_close(linear(x, weight), linear(x, whole), rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(linear(x, weight, bias), linear(x, whole, bias), rtol=1e-5, atol=1e-3)
        with torch.inference_mode():
            torch.testing.assert_close(linear(x, weight), linear(x, whole), rtol=1e-5, atol=1e-3)


def test_reads_as_float32_and_is_never_written_to() -> None:
    stored = torch.arange(12.0).reshape(3, 4).half()
    weight = torch.nn.Parameter(Widened(stored), requires_grad=False)
    assert weight.dtype == torch.float32
    for moved in (weight.T, weight[1], weight[:, ::2], weight.chunk(2)[0], torch.cat([weight, weight]), weight.data):
        assert isinstance(moved, Widened)
    assert torch.equal(weight.T.contiguous() + 0, stored.T.float())
    assert torch.equal(weight[torch.tensor([2, 0])], stored[[2, 0]].float())
    assert torch.equal(torch.cat([weight, torch.ones(1, 4)]), torch.cat([stored.float(), torch.ones(1, 4)]))
    with pytest.raises(RuntimeError, match="write to a weight"):
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="write to a weight"):
        torch.add(stored.float(), 1, out=weight)

"""Every architecture: what is collected is what llama.cpp collects, from a loaded model, and from streamed ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hubquant.calibration import Chunks
from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.blocks import open_checkpoint
from hubquant.models.spill import Spill
from hubquant.models.stream import BlockStream
from hubquant.observe import CollectionRequest, collect
from hubquant.observe.streamed import collect_streamed
from hubquant.sources.checkpoint import load_folder
from hubquant.sources.gguf import open_gguf
from tests.convert.test_llama_cpp import FLASH, IDS, MODELS, alike
from tests.support.conversion import build_uneven, write_gguf
from tests.support.llamacpp import LlamaCpp

DEEP = ("deepseek2 lite",)  # of 27 layers
NAMES = [name for name in MODELS if name not in DEEP and not alike(name)]
KINDS = (  # each with something that another block has not; the rest is made of these
    "llama", "gemma2", "gpt2", "falcon 40b", "mixtral", "qwen3_moe", "gpt_oss", "llama4", "deepseek32", "mamba2",
    "jamba", "lfm2_moe", "falcon_h1", "nemotron_h, experts", "qwen3_5_moe", "gemma4",
)  # fmt: skip
# multipliers that llama.cpp has in the weights, or behind them, and transformers in the inputs
FACTORS = ("falcon_h1", "mimo_v2_flash")


@pytest.mark.parametrize(
    "name", [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_loaded_streamed_and_llama_cpp(name: str, tmp_path: Path) -> None:
    family, config = MODELS[name]
    folder = build_uneven(family, tmp_path / "model", **config)
    conversion = write_gguf(folder, tmp_path / "model.gguf", "F32")
    chunks = Chunks(torch.tensor([IDS[:80], IDS[80:]]), ("x",), (2,), "0")
    wanted = CollectionRequest(process_output=True)
    loaded = collect(load_folder(folder, "cpu"), chunks, conversion.taps, wanted).matrix()
    stream = BlockStream(open_checkpoint(Checkpoint.from_folder(folder)), Spill(tmp_path / "hidden"))
    streamed = collect_streamed(stream, chunks, conversion.taps, wanted).matrix()
    source = open_gguf(tmp_path / "model.gguf")
    restored = collect_streamed(BlockStream(source.open_weights("cpu")), chunks, source.conversion().taps, wanted)
    with LlamaCpp(tmp_path / "model.gguf", flash=name in FLASH) as llama:
        expected = llama.imatrix(chunks.ids.tolist())
    others = [streamed, restored.matrix()]
    assert all(loaded.entries.keys() == other.entries.keys() == expected.keys() for other in others)
    for weight, (sums, counts) in expected.items():
        entry = loaded.entries[weight]
        if weight.endswith("attn_output_a.weight"):  # one matrix here, one for each of two groups of heads there
            sums, counts = sums.reshape(2, -1).sum(0, keepdims=True), 2 * counts
        for other in others:
            assert entry.counts.tolist() == other.entries[weight].counts.tolist() == counts.tolist()
            found, reference = other.entries[weight].in_sum2, entry.in_sum2
            if name in FACTORS and other is not streamed:
                found, reference = found / found.sum(), reference / reference.sum()
            torch.testing.assert_close(found, reference, rtol=5e-5, atol=1e-6)
        found, reference = entry.in_sum2, torch.from_numpy(sums)
        if name in FACTORS:
            found, reference = found / found.sum(), reference / reference.sum()
        torch.testing.assert_close(found, reference, rtol=5e-3, atol=1e-6)

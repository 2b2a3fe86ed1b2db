"""NVFP4 of a checkpoint stays as it is: blocks of GGUF, and beside them the factor that they have no place for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.blocks import open_checkpoint, open_file
from hubquant.convert.conversion import stream
from hubquant.convert.factored import ARCHITECTURES
from hubquant.convert.restore import load_model
from hubquant.convert.tables import Bundle
from hubquant.gguf_file import GGUFFile
from hubquant.quants import dequantize
from hubquant.sources.checkpoint import load_folder
from tests.checkpoint.test_codings import build
from tests.convert.test_llama_cpp import IDS, MODELS, LlamaCpp, logits, relative_error
from tests.support.cli import hubquant
from tests.support.conversion import plan, write_conversion, write_gguf

NAMES = (
    *("mixtral", "ministral3", "qwen3", "qwen3_moe", "qwen3_5", "qwen3_5_moe", "qwen3_next", "cohere2", "cohere2_moe"),
    *("nemotron_h", "nemotron_h, experts", "hy_v3", "mellum"),
)


@pytest.mark.parametrize("name", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES)])
def test_what_llama_cpp_computes(name: str, tmp_path: Path) -> None:
    """With floats in the place of blocks, which factors are multiplied with just so."""
    family, settings = MODELS[name]
    folder, _ = build("NVFP4 of ModelOpt", tmp_path / "model", family, **settings)
    conversion = write_gguf(folder, tmp_path / "model.gguf", "F32")
    assert conversion.architecture in ARCHITECTURES
    assert sum(name.endswith(".scale") for name in conversion.shapes) >= 6
    expected = logits(load_folder(folder, "cpu"))
    with LlamaCpp(tmp_path / "model.gguf") as llama:
        assert relative_error(llama.logits(IDS), expected) <= 1e-3
    assert relative_error(logits(load_model(tmp_path / "model.gguf")), expected) <= 1e-4


@pytest.mark.parametrize("name", ["llama", pytest.param("qwen3_moe", marks=pytest.mark.slow)])
def test_blocks_of_gguf_hold_the_same_codes(name: str, tmp_path: Path) -> None:
    family, settings = MODELS[name]
    folder, _ = build("NVFP4", tmp_path / "model", family, **settings)
    floats_outside = ("--output-tensor-type", "F32", "--token-embedding-type", "F32")
    options = ("--tensor-type", r"^blk=NVFP4", *floats_outside, "--allow-requantize", "-o", str(tmp_path / "out"))
    outcome = hubquant("quantize", str(folder), "-t", "Q8_0", *options)
    assert outcome.code == 0, outcome.err
    assert "14 tensors keep the codes and scales of the source" in outcome.err
    path = next((tmp_path / "out").glob("*.gguf"))
    file, floats = GGUFFile.open(path), dict(stream(plan(folder), Checkpoint.from_folder(folder)))
    for weight, type in plan(folder).exact.items():
        entry = file.tensors[weight]
        assert (type, entry.type) == ("NVFP4", "NVFP4")
        found = dequantize(file.data(weight), "NVFP4", entry.shape[-1]).reshape(entry.shape)
        assert torch.allclose(found, floats[weight], rtol=1e-6, atol=0)
        codes = found.half()
        assert torch.equal(codes.float(), found)  # F16 and BF16 hold them, too
        assert torch.equal(floats[weight].half(), codes)
    model, expected = load_model(path), logits(load_folder(folder, "cpu"))
    assert relative_error(logits(model), expected) <= 1e-4
    with LlamaCpp(path) as llama:  # which rounds inputs to 8 bits, and so takes other experts now and then
        assert np.corrcoef(llama.logits(IDS).ravel(), expected.ravel())[0, 1] > 0.95
    streamed = open_file(file, "cpu")
    streamed.load(1, streamed.read(1))
    of_checkpoint = open_checkpoint(Checkpoint.from_folder(folder), "cpu")
    of_checkpoint.load(1, of_checkpoint.read(1))
    for (weight, x), (_, other) in zip(
        streamed.blocks[1].named_parameters(), of_checkpoint.blocks[1].named_parameters(), strict=True
    ):
        assert torch.allclose(x.float(), other.float(), rtol=1e-5, atol=0), weight


def test_scales_of_inputs(tmp_path: Path) -> None:
    """A file of llama.cpp's converter may have them."""
    folder, _ = build("NVFP4 of ModelOpt", tmp_path / "model", "llama")
    checkpoint, conversion = Checkpoint.from_folder(folder), plan(folder)
    further = Bundle((), {"blk.0.attn_q.input_scale": (1,)}, values=(2.0,))
    write_conversion(conversion, checkpoint, tmp_path / "plain.gguf", "F32")
    with_further = replace(conversion, bundles=(*conversion.bundles, further))
    write_conversion(with_further, checkpoint, tmp_path / "model.gguf", "F32")
    with LlamaCpp(tmp_path / "model.gguf") as llama, LlamaCpp(tmp_path / "plain.gguf") as plain:
        assert np.array_equal(llama.logits(IDS), plain.logits(IDS))
    assert relative_error(logits(load_model(tmp_path / "model.gguf")), logits(load_folder(folder, "cpu"))) <= 1e-4


def test_where_llama_cpp_leaves_factors_out(tmp_path: Path) -> None:
    """Of qwen2 it multiplies with those of attention alone: there is none in the file, and no code stays."""
    folder, expected = build("NVFP4", tmp_path / "model", "qwen2")
    conversion = plan(folder)
    assert not conversion.exact
    assert not any(name.endswith(".scale") for name in conversion.shapes)
    floats = dict(stream(conversion, Checkpoint.from_folder(folder)))["blk.0.ffn_up.weight"]
    assert torch.equal(floats.bfloat16(), expected["model.layers.0.mlp.up_proj.weight"].bfloat16())

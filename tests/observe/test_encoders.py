"""An encoder's importance matrix: of texts between [CLS] and [SEP], against a forward pass that is written out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hubquant.calibration.chunks import build_framed
from hubquant.errors import CalibrationError
from hubquant.imatrix import load_imatrix
from hubquant.models import load_tokenizer
from hubquant.models.tiny import build as build_model
from hubquant.observe import collect
from hubquant.recipe.schema import TextSource
from hubquant.sources.checkpoint import load_folder
from hubquant.sources.gguf import open_gguf
from tests.convert.test_encoders import TINY, build
from tests.support.cli import hubquant
from tests.support.conversion import plan, write_gguf
from tests.support.llamacpp import LlamaCpp

CLS, SEP = 2, 3
TEXT = [TextSource(bundled="test")]


def sums_of_bert(folder: Path, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """GGUF name -> Σx² [n_in] over all tokens of ``ids`` [chunks, n], computed in float64 from the checkpoint alone."""
    w = {name: x.double() for name, x in load_file(folder / "model.safetensors").items()}
    found: dict[str, torch.Tensor] = {}

    def linear(x: torch.Tensor, module: str, name: str) -> torch.Tensor:
        found[name] = found.get(name, torch.zeros(x.shape[-1]).double()) + x.reshape(-1, x.shape[-1]).square().sum(0)
        return x @ w[f"{module}.weight"].T + w[f"{module}.bias"]

    def norm(x: torch.Tensor, module: str) -> torch.Tensor:
        scaled = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-12).sqrt()
        return scaled * w[f"{module}.weight"] + w[f"{module}.bias"]

    embedded = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(embedded + w["embeddings.position_embeddings.weight"][: ids.shape[1]], "embeddings.LayerNorm")
    for layer in range(2):
        at, to = f"encoder.layer.{layer}", f"blk.{layer}"
        q, k, v = (
            linear(x, f"{at}.attention.self.{name}", f"{to}.attn_{name[0]}.weight")
            .unflatten(-1, (4, 64))
            .transpose(1, 2)
            for name in ("query", "key", "value")
        )
        attended = (q @ k.transpose(2, 3) / math.sqrt(64)).softmax(-1) @ v
        out = linear(attended.transpose(1, 2).flatten(2), f"{at}.attention.output.dense", f"{to}.attn_output.weight")
        x = norm(x + out, f"{at}.attention.output.LayerNorm")
        up = linear(x, f"{at}.intermediate.dense", f"{to}.ffn_up.weight")
        gelu = up * 0.5 * (1 + torch.erf(up / math.sqrt(2)))
        x = norm(x + linear(gelu, f"{at}.output.dense", f"{to}.ffn_down.weight"), f"{at}.output.LayerNorm")
    return found


def test_sums_are_those_of_a_forward_pass_by_hand(tmp_path: Path) -> None:
    folder = build("bert", tmp_path / "model")
    chunks = build_framed(TEXT, load_tokenizer(folder), 64, 5, 0)
    assert chunks.ids.shape == (5, 64)
    assert chunks.ids[:, 0].tolist() == 5 * [CLS]
    assert chunks.ids[:, -1].tolist() == 5 * [SEP]
    assert not torch.isin(chunks.ids[:, 1:-1], torch.tensor([CLS, SEP])).any()
    matrix = collect(load_folder(folder, "cpu"), chunks, plan(folder).taps).matrix()
    expected = sums_of_bert(folder, chunks.ids)
    assert matrix.entries.keys() == expected.keys()
    for name, sums in expected.items():
        entry = matrix.entries[name]
        assert entry.counts.tolist() == [5 * 64]
        torch.testing.assert_close(entry.in_sum2[0], sums, rtol=1e-5, atol=1e-5 * float(sums.mean()))


@pytest.mark.parametrize(
    "family",
    [
        "bert",
        "distilbert",
        "eurobert",
        "jina_embeddings_v3",
        "xlm-roberta",
        "gemma3_text",
        "modernbert",
        "nomic_bert",
        "t5",
        "umt5",
    ],
)
def test_sums_are_llama_cpps_and_those_of_the_file(family: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder, file = build(family, tmp_path / "model"), tmp_path / "model.gguf"
    conversion = write_gguf(folder, file, "F32")
    chunks = build_framed(TEXT, load_tokenizer(folder), 64, 3, 0)
    matrix = collect(load_folder(folder, "cpu"), chunks, conversion.taps).matrix()
    source = open_gguf(file)
    assert torch.equal(build_framed(TEXT, source.tokenizer(), 64, 3, 0).ids, chunks.ids)
    restored = collect(source.load(device="cpu"), chunks, source.conversion().taps).matrix()
    with LlamaCpp(file, encoder=True) as llama:
        expected = llama.imatrix(chunks.ids.tolist())
    assert matrix.entries.keys() == restored.entries.keys() == expected.keys()
    for name, (sums, counts) in expected.items():
        entry = matrix.entries[name]
        assert entry.counts.tolist() == counts.tolist()
        torch.testing.assert_close(entry.in_sum2, restored.entries[name].in_sum2, rtol=1e-5, atol=1e-6)
        # llama.cpp looks GELU up in a table of half precision: columns that hardly count are off by more of themselves
        torch.testing.assert_close(entry.in_sum2, torch.from_numpy(sums), rtol=5e-3, atol=1e-4 * float(sums.mean()))


def test_collect_command(tmp_path: Path) -> None:
    folder = build_model("bert", tmp_path / "model", **TINY, max_position_embeddings=64)
    out = tmp_path / "imatrix.gguf"
    arguments = ("imatrix", "collect", str(folder), "-o", str(out), "--chunks", "4")
    outcome = hubquant(*arguments)
    assert outcome.code == 0, outcome.err
    assert "chunks have 64 tokens" in outcome.err
    assert "perplexity is not measured" in outcome.err
    matrix = load_imatrix(out)
    assert (matrix.chunk_size, matrix.chunk_count, len(matrix.entries)) == (64, 4, 12)
    for flag, told in ((("--process-output",), "no output layer"), (("--offload", "stream"), "not streamed")):
        refused = hubquant(*arguments, *flag)
        assert refused.code == 2
        assert refused.is_one_message()
        assert told in refused.err


def test_texts_that_do_not_suffice(tmp_path: Path) -> None:
    tokenizer: Any = load_tokenizer(build_model("bert", tmp_path / "model", **TINY))
    short = tmp_path / "short.txt"
    short.write_text("a few words")
    with pytest.raises(CalibrationError, match="too short"):
        build_framed([TextSource(file=str(short))], tokenizer, 64, 2, 0)
    with pytest.raises(CalibrationError, match="no room for a text"):
        build_framed(TEXT, tokenizer, 2, 2, 0)

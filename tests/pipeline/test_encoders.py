"""An encoder from a folder to a card: calibrated, quantized, and measured by its embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from hubquant.calibration.chunks import build_framed
from hubquant.convert.restore import load_model
from hubquant.gguf_file import GGUFFile
from hubquant.models import load_tokenizer
from hubquant.recipe.schema import TextSource
from tests.convert.test_encoders import MEAN, build, dense, modules
from tests.support.cli import hubquant
from tests.support.conversion import build_uneven

SMALL = ["--set", "calibration={chunks: 4, chunk_size: 64}", "--set", "evaluate={chunks: 40, chunk_size: 32}"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build("bert", tmp_path_factory.mktemp("encoder") / "bert")
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 256, "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def embeddings(model: Any, folder: Path) -> torch.Tensor:
    """float64 [40, 256], the state of [CLS]."""
    chunks = build_framed([TextSource(bundled="test")], load_tokenizer(folder), 32, 40, 0)
    with torch.no_grad():
        return torch.stack([model(ids[None]).last_hidden_state[0, 0] for ids in chunks.ids]).double()


def ranks(values: list[float]) -> list[float]:
    """Of each, how many are smaller and half of the others that are equal."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


def test_run(bert: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = hubquant("run", str(bert), "--types", "Q8_0,Q4_K_M", "--out", str(out), *SMALL, "--json")
    assert outcome.code == 0, outcome.err
    files = {file["type"]: file["similarity"] for file in json.loads(outcome.out)["files"]}
    source = embeddings(AutoModel.from_pretrained(bert).eval(), bert)
    cosine = torch.nn.functional.cosine_similarity
    pairs = torch.triu_indices(40, 40, 1)
    of_pairs = cosine(source[pairs[0]], source[pairs[1]]).tolist()
    for type, found in files.items():
        restored = embeddings(load_model(out / f"bert-{type}.gguf"), bert)
        cosines = cosine(source, restored)
        assert found["cosine"] == pytest.approx(float(cosines.mean()), abs=1e-6)
        assert found["cosine_error"] == pytest.approx(float(cosines.std()) / 40**0.5, rel=1e-2)
        assert found["minimum"] == pytest.approx(float(cosines.min()), abs=1e-6)
        assert found["median"] == pytest.approx(float(cosines.quantile(0.5)), abs=1e-6)
        again = cosine(restored[pairs[0]], restored[pairs[1]]).tolist()
        expected = np.corrcoef(ranks(of_pairs), ranks(again))[0, 1]
        assert found["spearman"] == pytest.approx(expected, abs=1e-4)
        assert (found["n_texts"], found["n_tokens"], found["n_pairs"], found["pooling"]) == (40, 1280, 780, "cls")
    assert 1 > files["Q8_0"]["cosine"] > files["Q4_K_M"]["cosine"] > 0.9
    assert GGUFFile.open(out / "bert-Q4_K_M.gguf").metadata["quantize.imatrix.entries_count"].value == 12
    card = (out / "README.md").read_text()
    assert "pipeline_tag: feature-extraction" in card
    assert "| Mean cosine | Rank correlation | Recommendation | 1 % cosine |" in card
    assert "gave embeddings of 40 texts, 1,280 tokens together" in card
    assert "each embedding is the state of the first token" in card
    assert "llama-server -m bert-Q4_K_M.gguf --embeddings" in card
    assert not any(word in card for word in ("KLD", "PPL", "same next token", "for each thousand tokens"))
    stored = json.loads((out / "measurements.json").read_text())["files"]
    assert {file["type"]: file["similarity"] for file in stored} == files
    assert (out / "plot.png").is_file()
    assert (out / "imatrix.gguf").is_file()
    by_file = ("evaluate", "run", str(out / "bert-Q8_0.gguf"), "-b", str(bert), "--chunks", "40", "--chunk-size", "32")
    assert json.loads(hubquant(*by_file, "--json").out) == files["Q8_0"]
    assert "over 780 pairs" in hubquant(*by_file).out
    both = hubquant(*by_file, str(out / "bert-Q4_K_M.gguf"))
    assert [line.split()[0] for line in both.out.splitlines()] == ["File", "bert-Q8_0.gguf", "bert-Q4_K_M.gguf"]
    for option in (("--plot", str(tmp_path)), ("--out", str(tmp_path / "a.h5")), ("--margin", "0.1")):
        refused = hubquant(*by_file, *option)
        assert refused.code == 2
        assert f"{option[0]} is not for bert models" in refused.err


@pytest.mark.slow
def test_run_of_embedding_gemma_and_of_a_reranker(tmp_path: Path) -> None:
    """What comes of a text in the end, and what a score is made of, are compared."""
    sizes = {"1_Pooling": MEAN, "2_Dense": dense(256, 512), "3_Dense": dense(512, 256)}
    gemma = modules(build("gemma3_text", tmp_path / "gemma"), **sizes)
    answers = {"1_LogitScore": {"true_token_id": 20, "false_token_id": 30}}
    reranker = modules(build_uneven("qwen3", tmp_path / "reranker"), **answers)
    for folder, pooling, option in ((gemma, "mean", "--embeddings"), (reranker, "last", "--reranking")):
        out = tmp_path / f"{folder.name}-out"
        outcome = hubquant("run", str(folder), "--types", "F32,Q8_0,IQ2_XS", "--out", str(out), *SMALL, "--json")
        assert outcome.code == 0, outcome.err
        files = {file["type"]: file["similarity"] for file in json.loads(outcome.out)["files"]}
        assert files["F32"]["cosine"] == pytest.approx(1, abs=1e-6)
        assert 1 > files["Q8_0"]["cosine"] > files["IQ2_XS"]["cosine"] > 0
        assert files["Q8_0"]["pooling"] == pooling
        assert f".gguf {option}\n" in (out / "README.md").read_text()


def test_a_gate_on_the_cosine(bert: Path, tmp_path: Path) -> None:
    gate = ["--set", "gates.cosine_mean={Q4_K_M: 0.99999}"]
    arguments = ["run", str(bert), "--types", "Q8_0,Q4_K_M", "--out", str(tmp_path / "out"), *SMALL, *gate]
    outcome = hubquant(*arguments)
    assert outcome.code == 1
    assert "Q4_K_M is not published: its mean cosine is below 0.99999" in outcome.out
    assert [path.name for path in (tmp_path / "out").glob("bert*")] == ["bert-Q8_0.gguf"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("gates.kld_mean={Q8_0: 0.1}", "gates.kld_mean is not for bert models"),
        ("evaluate.margin=0.05", "evaluate.margin is not for bert models"),
        ("evaluate.way=streamed", "evaluate.way: streamed is not for bert models"),
        ("evaluate.engine=both", "evaluate.engine: both is not for bert models"),
        ("imatrix.process_output=true", "bert models have no output layer"),
        ("imatrix.offload=stream", "bert models are not streamed"),
        ("evaluate.chunks=1", "1 texts are too few"),
        ("evaluate.chunks=3", "3 texts are too few"),
    ],
)
def test_what_an_encoder_cannot_have(settings: str, told: str, bert: Path, tmp_path: Path) -> None:
    outcome = hubquant("plan", str(bert), "--types", "Q8_0", "--out", str(tmp_path / "out"), "--set", settings)
    assert outcome.code == 2
    assert outcome.is_one_message()
    assert told in outcome.err


def test_a_cosine_is_not_of_a_language_model(tiny_llama: Path, tmp_path: Path) -> None:
    gate = ("--set", "gates.cosine_mean={Q8_0: 0.9}")
    outcome = hubquant("plan", str(tiny_llama), "--types", "Q8_0", "--out", str(tmp_path / "out"), *gate)
    assert outcome.code == 2
    assert "gates.cosine_mean is for encoders" in outcome.err

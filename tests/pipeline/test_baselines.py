"""Baselines by the command line: their forms, their parts, and what does not fit them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from hubquant.evaluate import Baseline
from hubquant.gguf_file import GGUFFile
from hubquant.models.tiny import build
from tests.support.cli import hubquant

FEW = ["--chunks", "3", "--chunk-size", "32"]
WORDS = 25000


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a vocabulary that makes the compact form the usual one."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    return build("llama", folder, vocab_size=WORDS, hidden_size=32, intermediate_size=32, head_dim=8)


@pytest.fixture(scope="module")
def made(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for line in (
        ["quantize", str(wide), "-t", "Q4_0", "-o", str(folder / "model.gguf")],
        ["evaluate", "baseline", str(wide), "-o", str(folder / "compact.h5"), *FEW],
        ["evaluate", "baseline", str(wide), "-o", str(folder / "full.h5"), "--full", *FEW],
        ["evaluate", "baseline", str(wide), "-o", str(folder / "base.kld"), *FEW],
    ):
        outcome = hubquant(*line)
        assert outcome.code == 0, outcome.err
    return folder


def measure(file: Path, baseline: Path) -> dict[str, Any]:
    outcome = hubquant("evaluate", "run", str(file), "--baseline", str(baseline), "--json")
    assert outcome.code == 0, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def refusal(*line: str) -> str:
    outcome = hubquant(*line)
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    return outcome.err


def test_the_forms_measure_the_same(made: Path) -> None:
    found = {name: measure(made / "model.gguf", made / name) for name in ("compact.h5", "full.h5", "base.kld")}
    full = found["full.h5"]
    assert found["compact.h5"]["kld"]["mean"] == pytest.approx(full["kld"]["mean"], abs=2e-6)
    assert found["compact.h5"]["kld_bound"] < 2e-6
    assert found["base.kld"]["kld"]["mean"] == pytest.approx(full["kld"]["mean"], rel=1e-3)
    assert found["base.kld"]["kld_bound"] is full["kld_bound"] is None
    for name in ("compact.h5", "base.kld"):
        assert found[name]["ppl"]["ppl"] == full["ppl"]["ppl"]
        assert found[name]["ppl_base"]["ppl"] == pytest.approx(full["ppl_base"]["ppl"], rel=1e-4)
    text = hubquant("evaluate", "run", str(made / "model.gguf"), "--baseline", str(made / "compact.h5")).out
    assert "99.9 % sure" in text


def test_what_made_them_stands_in_them(made: Path) -> None:
    with Baseline.open(made / "compact.h5") as baseline:
        assert baseline.form == "compact"
        assert baseline.identity is not None
        assert len(baseline.identity.tokens_fingerprint) == 64
        assert baseline.identity.first_chunk == 1
    with Baseline.open(made / "full.h5") as baseline:
        assert baseline.form == "full"


def test_bos_takes_the_place_of_the_first_token_of_a_chunk(made: Path, tmp_path: Path) -> None:
    """llama-perplexity's files have the text's own token there."""
    data = bytearray((made / "base.kld").read_bytes())
    for chunk in range(3):
        struct.pack_into("<i", data, 20 + 4 * 32 * chunk, 7)
    (tmp_path / "base.kld").write_bytes(data)
    assert measure(made / "model.gguf", tmp_path / "base.kld") == measure(made / "model.gguf", made / "base.kld")


def test_a_part_is_compared_where_it_overlaps(wide: Path, made: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.h5"
    few = ["--chunk-size", "32", "--from-chunk", "2", "--chunks", "4"]
    outcome = hubquant("evaluate", "baseline", str(wide), "-o", str(part), "--full", *few)
    assert outcome.code == 0, outcome.err
    with Baseline.open(part) as baseline, Baseline.open(made / "full.h5") as whole:
        assert baseline.identity is not None
        assert (baseline.identity.first_chunk, baseline.n_chunks) == (3, 4)
        assert baseline.ids[0].equal(whole.ids[2])
    first, joined = tmp_path / "first.h5", tmp_path / "joined.h5"
    outcome = hubquant("evaluate", "baseline", str(wide), "-o", str(first), "--full", *few[:2], "--chunks", "2")
    assert outcome.code == 0, outcome.err
    outcome = hubquant("evaluate", "join", str(part), str(first), "-o", str(joined))
    assert outcome.code == 0, outcome.err
    assert measure(made / "model.gguf", joined)["n_tokens"] == 6 * 15
    for name in ("full.h5", "compact.h5", "base.kld"):
        outcome = hubquant("evaluate", "compare", str(made / name), str(part), "--json")
        found = json.loads(outcome.out)
        assert found["n_tokens"] == 15
        assert abs(found["kld"]["mean"]) < 1e-4
    assert "--full" in refusal("evaluate", "compare", str(part), str(made / "compact.h5"))


def test_a_file_of_another_vocabulary_is_refused(tiny_llama: Path, made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    assert hubquant("convert", str(tiny_llama), "-o", str(other)).code == 0
    for name in ("compact.h5", "full.h5", "base.kld"):
        told = refusal("evaluate", "run", str(other), "--baseline", str(made / name))
        assert f"one of {WORDS}" in told
    assert hubquant("evaluate", "baseline", str(tiny_llama), "-o", str(tmp_path / "b.h5"), *FEW).code == 0
    assert "vocabularies" in refusal("evaluate", "compare", str(made / "full.h5"), str(tmp_path / "b.h5"))


def test_a_file_of_another_tokenizer_is_refused(tmp_path: Path, made: Path) -> None:
    tiny = {"vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 32, "head_dim": 8}
    other = build("qwen2", tmp_path / "other", **tiny)
    file = tmp_path / "other.gguf"
    assert hubquant("convert", str(other), "-o", str(file)).code == 0
    assert GGUFFile.open(file).tensors["token_embd.weight"].shape[0] == WORDS
    told = refusal("evaluate", "run", str(file), "--baseline", str(made / "compact.h5"))
    assert "tokenizers" in told
    assert "wide" in told


def test_other_texts_are_refused(wide: Path, made: Path, tmp_path: Path) -> None:
    few = ["--chunk-size", "64", "--chunks", "2", "--full"]
    assert hubquant("evaluate", "baseline", str(wide), "-o", str(tmp_path / "b.h5"), *few).code == 0
    assert "different token ids" in refusal("evaluate", "compare", str(made / "full.h5"), str(tmp_path / "b.h5"))


@pytest.mark.parametrize("name", ["compact.h5", "base.kld"])
def test_a_damaged_one_is_one_message(made: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes((made / name).read_bytes()[:-100])
    assert "evaluate baseline" in refusal("evaluate", "run", str(made / "model.gguf"), "--baseline", str(path))

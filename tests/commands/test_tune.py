"""``hubquant tune``, and who uses what it found."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from hubquant.pipeline.results import RESULT
from tests.support.cli import hubquant
from tests.support.conversion import build_uneven

FEW = ("--chunks", "4", "--chunk-size", "32")


def asked(*arguments: str) -> Any:
    outcome = hubquant(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def settle_on(store: Path, batch: int) -> None:
    """As if that batch had won."""
    [path] = store.glob(f"tuning/*/{RESULT}")
    content = path.read_text()
    kept = json.loads(content)
    kept["winner"]["batch"], kept["settled"] = batch, True
    path.write_text(json.dumps(kept, indent=1).ljust(len(content)))


@pytest.mark.usefixtures("store")
def test_it_is_measured_once(tiny_llama: Path) -> None:
    line = ("tune", str(tiny_llama), "--context", "32", "--seconds", "2")
    first, again = asked(*line), asked(*line)
    assert first["winner"] in first["candidates"]
    assert [each["batch"] for each in first["candidates"]] == [32 << k for k in range(len(first["candidates"]))]
    memory = [each["memory_bytes"] for each in first["candidates"]]
    assert memory == sorted(memory)
    assert all(each["speed"] > 0 and each["rounds"] for each in first["candidates"])
    assert again == {**first, "known": True}
    fresh = asked(*line, "--fresh")
    assert fresh["known"] is False
    shown = hubquant(*line).out
    assert f"{fresh['winner']['batch']} tokens at a time" in shown
    assert "measured before; --fresh measures it again" in shown
    steps = asked(*line, "--dry-run")["steps"]
    assert [(step["name"], step["done"]) for step in steps] == [("tune", True)]
    assert asked(*line, "--dry-run", "--fresh")["steps"][0]["done"] is False


def test_runs_and_collections_use_it_and_find_what_was_collected_before(
    tiny_llama: Path, store: Path, tmp_path: Path
) -> None:
    line = ("imatrix", "collect", str(tiny_llama), "-o", str(tmp_path / "i.gguf"), *FEW)
    run = ("run", str(tiny_llama), "--types", "Q8_0", "--no-eval", "-o", str(tmp_path / "made"), "--dry-run")
    sizes = ("--set", "calibration.chunk_size=32", "--set", "calibration.chunks=4")
    asked(*line)
    asked("tune", str(tiny_llama), "--context", "32", "--seconds", "0")
    assert asked(*line, "--dry-run")["notes"] == []  # one run is not enough to be sure
    settle_on(store, 64)
    note = "64 tokens run at a time, as hubquant tune found"
    planned = asked(*line, "--dry-run")
    assert planned["notes"] == [note]
    assert all(step["done"] for step in planned["steps"])
    assert note in asked(*run, *sizes)["notes"]
    assert note not in asked(*run)["notes"]  # whose chunks are longer
    few = ("--set", "calibration.chunk_size=32", "--set", "evaluate.chunks=2", "--sizes", "64,128", "--dry-run")
    assert note in asked("refine", str(tiny_llama), "--type", "Q2_K", *few)["notes"]
    for other in (("--batch", "128"), ("--shard", "1/1"), ("--offload", "stream")):
        assert asked(*line, *other, "--dry-run")["notes"] == []
    (tmp_path / "i.gguf").unlink()
    assert asked(*line, "--no-ppl")["chunks"] == 4


@pytest.mark.usefixtures("store")
def test_a_file_is_tuned_in_llama_cpp(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    asked("convert", str(tiny_llama), "-o", str(file))
    line = ("tune", str(file), "--context", "100", "--engine", "llamacpp", "--seconds", "3")
    found = asked(*line)
    assert all(each["ubatch"] <= each["batch"] <= 64 and each["speed"] > 0 for each in found["candidates"])
    assert f"-b {found['winner']['batch']} -ub {found['winner']['ubatch']}" in hubquant(*line).out
    assert asked("tune", str(file), "--context", "32", "--seconds", "0")["winner"]["ubatch"] is None


def test_what_would_not_fit_is_not_tried(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("tune", str(tiny_llama), "--context", "32", "--store", str(tmp_path / "store"))
    total, needed = psutil.virtual_memory().total, asked(*line, "--seconds", "0")["winner"]["memory_bytes"]

    def limit(available: float) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=total, available=available))

    limit(1.2 * needed)
    found = asked(*line, "--fresh")
    assert [each["batch"] for each in found["candidates"]] == [32]
    assert "64 tokens would take" in found["ended"]
    assert found["settled"]
    limit(needed)
    outcome = hubquant(*line, "--fresh")
    assert outcome.is_one_message
    assert "a batch of 32 tokens in this memory" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engine", "llamacpp"), "it reads GGUF files"),
        (("--context", "1000000"), "its positions end at"),
    ],
)
def test_mistakes_are_told(arguments: tuple[str, ...], message: str, tiny_llama: Path) -> None:
    outcome = hubquant("tune", str(tiny_llama), *arguments)
    assert outcome.code == 2
    assert message in outcome.err


def test_what_cannot_run_is_not_tuned(tmp_path: Path) -> None:
    padding = {**dict.fromkeys(("head_dim", "num_key_value_heads", "tie_word_embeddings"), ...), "pad_token_id": 0}
    folder = build_uneven("bert", tmp_path / "bert", type_vocab_size=2, **padding)
    outcome = hubquant("tune", str(folder), "--context", "32")
    assert outcome.is_one_message
    assert "running bert models" in outcome.err

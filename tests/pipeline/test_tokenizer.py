"""The tokenizer in the plan, and the option that names its pre-tokenizer."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from gguf import Keys

from hubquant.gguf_file import GGUFFile, GGUFWriter, TensorEntry, plan_layout
from tests.support.cli import hubquant

pytest.importorskip("xllamacpp")


def plan(model: Path, out: Path, *more: str) -> str:
    settings = ("--types", "Q8_0", "--set", "imatrix.skip=true", "--set", "evaluate.skip=true")
    outcome = hubquant("plan", str(model), "--out", str(out), *settings, *more)
    assert outcome.code == 0, outcome.err
    return outcome.out


def test_the_plan_says_what_was_compared(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "tokenizer same tokens in llama.cpp for 15 texts" in plan(tiny_llama, tmp_path / "out")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else find(name))
    without = json.loads(plan(tiny_llama, tmp_path / "out", "--json"))
    assert without["tokenizer"] == "not compared with llama.cpp: xllamacpp is not installed"
    (note,) = without["notes"]
    assert note.startswith("the tokenizer is not compared with llama.cpp: xllamacpp is not installed")


def test_a_named_pre_tokenizer_is_written(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    outcome = hubquant("convert", str(tiny_llama), "-o", str(file), "--pre-tokenizer", "llama3")
    assert outcome.code == 0, outcome.err
    assert GGUFFile.open(file).metadata[Keys.Tokenizer.PRE].value == "llama3"
    matrix = str(tmp_path / "imatrix.gguf")
    size = ("--chunks", "1", "--chunk-size", "16")
    assert hubquant("imatrix", "collect", str(tiny_llama), "-o", matrix, *size, "--pre-tokenizer", "llama3").code == 0
    unknown = hubquant("imatrix", "collect", str(tiny_llama), "-o", matrix, *size, "--pre-tokenizer", "llama33")
    assert unknown.code == 2
    assert "nearest is 'llama3'" in unknown.err


def without_pre_tokenizer(file: Path, out: Path) -> Path:
    """As converters wrote files before llama.cpp had names for pre-tokenizers."""
    model = GGUFFile.open(file)
    metadata = {key: kv for key, kv in model.metadata.items() if key != Keys.Tokenizer.PRE}
    entries = [TensorEntry(tensor.name, tensor.shape, tensor.type) for tensor in model.tensors.values()]
    with GGUFWriter(out, plan_layout(metadata, entries)) as writer:
        for entry in entries:
            writer.write(entry.name, model.data(entry.name))
        return writer.finish()


def test_an_older_file_gets_a_name(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    assert hubquant("convert", str(tiny_llama), "-o", str(file)).code == 0
    older = str(without_pre_tokenizer(file, tmp_path / "older.gguf"))
    size = ("--chunks", "1", "--chunk-size", "16")
    matrix = str(tmp_path / "imatrix.gguf")
    for more in ((), ("--pre-tokenizer", "llama-bpe")):
        outcome = hubquant("imatrix", "collect", older, "-o", matrix, *size, *more)
        assert outcome.code == 0, outcome.err
    assert hubquant("quantize", older, "-t", "Q8_0", "-o", str(tmp_path), "--pre-tokenizer", "llama-bpe").code == 0
    made = GGUFFile.open(tmp_path / "older-Q8_0.gguf").metadata
    assert made[Keys.Tokenizer.PRE].value == "llama-bpe"
    unknown = hubquant("quantize", older, "-t", "Q8_0", "-o", str(tmp_path), "--pre-tokenizer", "llama33")
    assert (unknown.code, "nearest is 'llama3'" in unknown.err) == (2, True)

"""Runs of multimodal models: what they see with is made beside the files of their language models."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM

from hubquant.gguf_file import GGUFFile
from tests.convert.test_projectors import MODELS, build
from tests.support.cli import hubquant
from tests.support.conversion import relative_error, write_gguf
from tests.support.localhub import LocalHub
from tests.support.mtmd import Multimodal
from tests.support.multimodal import build_multimodal
from tests.support.seeing import embeddings

DEMO = Path(str(resources.files("hubquant"))) / "data" / "demo"
FEW = ["calibration.chunk_size=64", "calibration.chunks=2", "evaluate.skip=true", "quantize.types=[Q8_0]"]
SET = [part for override in FEW for part in ("--set", override)]


def made(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.gguf")}


def test_a_run_makes_what_the_model_sees_with(tmp_path: Path) -> None:
    folder, out = build("gemma3", tmp_path / "tiny"), tmp_path / "out"
    plan = json.loads(hubquant("plan", str(folder), *SET, "--out", str(out), "--json").out)
    assert [each["name"] for each in plan["projectors"]] == ["mmproj-tiny-F16.gguf"]
    assert not any("language model" in note for note in plan["notes"])

    found = hubquant("run", str(folder), *SET, "--out", str(out))
    assert found.code == 0, found.err
    assert "to see or hear with: mmproj-tiny-F16.gguf" in found.out
    assert made(out) == {"tiny-Q8_0.gguf", "imatrix.gguf", "mmproj-tiny-F16.gguf"}
    assert f"{out / 'mmproj-tiny-F16.gguf'}" not in (card := (out / "README.md").read_text())
    assert "llama-server -m tiny-Q8_0.gguf --mmproj mmproj-tiny-F16.gguf" in card
    assert "only the language model" not in card
    assert "does not tell of" not in card

    again = hubquant("run", str(folder), *SET, "--out", str(out), "--mmproj", "F16,Q8_0")
    assert again.code == 0, again.err
    assert made(out) == {"tiny-Q8_0.gguf", "imatrix.gguf", "mmproj-tiny-F16.gguf", "mmproj-tiny-Q8_0.gguf"}
    assert "Files of earlier runs" not in (out / "README.md").read_text()


def test_what_it_sees_otherwise_is_noted(tmp_path: Path) -> None:
    plan = json.loads(hubquant("plan", str(build("llava", tmp_path / "tiny")), *SET, "--json").out)
    assert [each["name"] for each in plan["projectors"]] == ["mmproj-tiny-F16.gguf"]
    assert any("class token behind the patches" in note for note in plan["notes"])


def test_from_the_hub_to_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    hub.add("org/seeing", build("gemma3", tmp_path / "tiny"))
    found = hubquant("run", "org/seeing", *SET, "--push", "alice/seeing-GGUF", "--out", str(tmp_path / "out"))
    assert found.code == 0, found.err
    assert "mmproj-seeing-F16.gguf" in hub.repository("alice/seeing-GGUF").files
    assert "llama-server -hf` takes `mmproj-seeing-F16.gguf" in (tmp_path / "out" / "README.md").read_text()


def test_without_what_it_sees_with(tmp_path: Path) -> None:
    folder, out = build("gemma3", tmp_path / "tiny"), tmp_path / "out"
    assert hubquant("run", str(folder), *SET, "--out", str(out), "--mmproj", "none").code == 0
    assert made(out) == {"tiny-Q8_0.gguf", "imatrix.gguf"}
    assert "only the language model is converted" in (out / "README.md").read_text()


def test_what_cannot_be_made_is_said(tmp_path: Path) -> None:
    folder = build("gemma3", tmp_path / "tiny")
    (folder / "preprocessor_config.json").unlink()
    plan = json.loads(hubquant("plan", str(folder), *SET, "--json").out)
    assert not plan["projectors"]
    assert any(note.startswith("no mmproj") and "preprocessor_config.json" in note for note in plan["notes"])
    asked = hubquant("plan", str(folder), *SET, "--mmproj", "F16")
    assert asked.code == 2
    assert asked.is_one_message()
    assert "preprocessor_config.json has no image_mean" in asked.err


def test_what_llama_cpp_would_hear_otherwise_is_said(tmp_path: Path) -> None:
    folder = build_multimodal("voxtral", "llama", "voxtral_encoder", tmp_path / "tiny")
    plan = json.loads(hubquant("plan", str(folder), *SET, "--json").out)
    assert not plan["projectors"]
    assert any(note.startswith("no mmproj") and "averages pairs" in note for note in plan["notes"])
    asked = hubquant("plan", str(folder), *SET, "--mmproj", "F16")
    assert asked.code == 2
    assert asked.is_one_message()
    assert "averages pairs" in asked.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mmproj", "Q4_K"], "convert.mmproj"),
        (["--component", "mmproj"], "calibrating"),
    ],
)
def test_mistakes(options: list[str], said: str, tmp_path: Path) -> None:
    found = hubquant("plan", str(build("gemma3", tmp_path / "tiny")), *SET, *options)
    assert found.code == 2
    assert found.is_one_message()
    assert said in found.err


def test_a_model_without_one(tmp_path: Path) -> None:
    found = hubquant("convert", str(DEMO), "--mmproj", "-o", str(tmp_path / "x.gguf"))
    assert found.code == 2
    assert found.is_one_message()
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(("type", "bound"), [("F16", 5e-3), ("BF16", 3e-2), ("Q8_0", 3e-2)])
def test_converted_to_each_type(type: str, bound: float, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder, path = build("gemma3", tmp_path / "tiny"), tmp_path / "mmproj.gguf"
    found = hubquant("convert", str(folder), "--mmproj", "--type", type, "-o", str(path))
    assert found.code == 0, found.err
    file = GGUFFile.open(path)
    assert file.metadata["general.type"].value == "mmproj"
    assert {entry.type for entry in file.tensors.values()} == {"F32", "F16", type}
    write_gguf(folder, tmp_path / "model.gguf", "F32")
    _, _, way, (height, width) = MODELS["gemma3"]
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    expected = embeddings(AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32), picture, way)
    with Multimodal(tmp_path / "model.gguf", path) as llama:
        (seen,) = llama.see(picture, expected.shape[-1])
    assert relative_error(torch.from_numpy(seen), expected) <= bound

"""Models whose code transformers lacks are calibrated and measured by llama.cpp, from a file of half floats."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from hubquant.calibration.chunks import build
from hubquant.gguf_file import GGUFFile
from hubquant.imatrix import load_imatrix
from hubquant.llamacpp.inputs import WatchedFile
from hubquant.models import load_tokenizer
from hubquant.observe import collect
from hubquant.recipe.schema import TextSource
from hubquant.sources.checkpoint import load_folder
from tests.convert.test_own_code import OWN, STAND_INS
from tests.support.cli import hubquant
from tests.support.conversion import build_uneven, configure, edit_weights, plan, write_gguf

pytest.importorskip("xllamacpp")

SMALL = ("--set", "calibration={chunks: 3, chunk_size: 64}", "--set", "evaluate={chunks: 40, chunk_size: 64}")


def without_code(name: str, folder: Path) -> Path:
    theirs, own, rename = OWN[name]
    build_uneven(STAND_INS[name], folder, **theirs)
    edit_weights(folder, rename)
    configure(folder, architectures=[name], model_type="own", is_causal=..., **own)
    return folder


@pytest.fixture(scope="module")
def xverse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has Llama's weights by Llama's names."""
    return without_code("XverseForCausalLM", tmp_path_factory.mktemp("own") / "xverse")


def test_the_matrix_is_that_of_the_model_with_its_weights(xverse: Path, tmp_path: Path) -> None:
    out, store = tmp_path / "imatrix.gguf", str(tmp_path / "store")
    args = ("--chunks", "3", "--chunk-size", "64", "--process-output", "-o", str(out), "--store", store)
    outcome = hubquant("imatrix", "collect", str(xverse), *args)
    assert outcome.code == 0, outcome.err
    assert "llama.cpp runs its F16 file in its place" in outcome.err
    assert "perplexity" in outcome.err
    taps = plan(xverse).taps
    llama = build_uneven("llama", tmp_path / "llama", **OWN["XverseForCausalLM"][0])
    chunks = build([TextSource(bundled="calibration")], load_tokenizer(xverse), 64, 3, 0)
    expected = collect(load_folder(llama, "cpu"), chunks, taps).matrix()
    found = load_imatrix(out)
    assert found.provenance["collected_with"].startswith("xllamacpp ")
    assert found.provenance["calibration_sha256"] == chunks.fingerprint
    assert found.entries.keys() == expected.entries.keys() | {"output.weight"}
    for name, entry in expected.entries.items():
        assert found.entries[name].counts.tolist() == entry.counts.tolist() == [192]
        scale = float(entry.in_sum2.mean())
        torch.testing.assert_close(found.entries[name].in_sum2.double(), entry.in_sum2, rtol=5e-3, atol=5e-3 * scale)


def test_the_plan_says_so(xverse: Path, tmp_path: Path) -> None:
    planned = hubquant("plan", str(xverse), "--types", "IQ2_XS", *SMALL, "--store", str(tmp_path))
    assert planned.code == 0, planned.err
    said = " ".join(planned.out.split())
    assert "quantize F16, IQ2_XS" in said
    assert "64 tokens from hubquant:calibration (in llama.cpp)" in said
    assert "IQ2_XS in llama.cpp" in said
    assert "transformers lacks the model's code: llama.cpp runs its F16 file in its place" in said


@pytest.mark.parametrize("setting", ["evaluate.engine=torch", "quantize.rounding=feedback", "quantize.types=[4bpw]"])
def test_what_only_transformers_can_do_is_refused(setting: str, xverse: Path, tmp_path: Path) -> None:
    outcome = hubquant("plan", str(xverse), "--set", setting, "--store", str(tmp_path))
    assert outcome.code == 2
    assert "transformers lacks its code" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["XverseForCausalLM", "CodeShellForCausalLM"])
def test_run(name: str, tmp_path: Path) -> None:
    folder, out = without_code(name, tmp_path / "model"), tmp_path / "out"
    places = ("--out", str(out), "--store", str(tmp_path / "store"))
    types = ("--types", "F16,Q8_0,Q4_K_M,IQ2_XS")
    outcome = hubquant("run", str(folder), *types, *SMALL, *places, "--json")
    assert outcome.code == 0, outcome.err
    kld = {file["type"]: file["divergence"]["kld"]["mean"] for file in json.loads(outcome.out)["files"]}
    assert abs(kld["F16"]) < 1e-6 < kld["Q8_0"] < kld["Q4_K_M"] < kld["IQ2_XS"]
    card = " ".join((out / "README.md").read_text().split())
    assert "collected by llama.cpp from an F16 file, for transformers lacks the model's code, on 192 tokens" in card
    assert "llama.cpp ran every file and compared it with the F16 file" in card
    assert "Not checked" not in card
    matrix = load_imatrix(out / "imatrix.gguf")
    taps = plan(folder).taps
    assert matrix.entries.keys() == {weight for weight in taps if weight.startswith("blk.")}
    assert all(entry.counts.tolist() == [192] for entry in matrix.entries.values())
    assert GGUFFile.open(out / "model-IQ2_XS.gguf").metadata["quantize.imatrix.entries_count"].value == len(
        matrix.entries
    )
    again = hubquant("run", str(folder), *types, *SMALL, *places, "--dry-run")
    assert again.out.count("(done before)") == 5


@pytest.mark.parametrize("setting", ["imatrix.offload=stream", "evaluate.way=streamed"])
def test_ways_of_transformers_are_refused(setting: str, xverse: Path, tmp_path: Path) -> None:
    outcome = hubquant("plan", str(xverse), "--set", setting, "--store", str(tmp_path))
    assert outcome.code == 2
    assert f"{setting.replace('=', ': ')} is not for this model" in outcome.err


def test_without_llama_cpp_it_is_named(xverse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else find(name))
    for command in (("plan", str(xverse)), ("imatrix", "collect", str(xverse), "-o", str(tmp_path / "i.gguf"))):
        outcome = hubquant(*command, "--store", str(tmp_path))
        assert outcome.code == 2
        assert "llama.cpp runs it, to add it: pip install 'hubquant[llamacpp]'" in " ".join(outcome.err.split())


def test_what_fills_in_masked_tokens_is_calibrated_alone(tmp_path: Path) -> None:
    folder = without_code("LLaDAModelLM", tmp_path / "model")
    refused = hubquant("plan", str(folder), *SMALL, "--store", str(tmp_path / "store"))
    assert refused.code == 2
    assert "no next one is predicted" in refused.err
    skipping = ("--set", "evaluate.skip=true", "--types", "IQ2_XS")
    planned = hubquant("plan", str(folder), *SMALL, *skipping, "--store", str(tmp_path / "store"))
    assert planned.code == 0, planned.err
    assert "(in llama.cpp)" in planned.out


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_llama_cpp_multiplies_with_each_weight_that_has_importance(name: str, tmp_path: Path) -> None:
    folder = without_code(name, tmp_path / "model")
    taps = write_gguf(folder, tmp_path / "model.gguf", "F32").taps
    with WatchedFile(tmp_path / "model.gguf", 64, 1) as file, file.watching(lambda weight: weight in taps) as found:
        file.logits(list(range(3, 67)))
    assert {weight for weight in found if weight.startswith("blk.")} == {w for w in taps if w.startswith("blk.")}

"""A GGUF file where a model is expected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hubquant.gguf_file import GGUFFile
from hubquant.imatrix import load_imatrix
from tests.support.cli import hubquant

FEW = ("--chunks", "4", "--chunk-size", "64")


@pytest.fixture(scope="module")
def file(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    assert hubquant("convert", str(tiny_llama), "-o", str(path), "-t", "F32").code == 0
    return path


def test_its_importance_is_the_checkpoints(tiny_llama: Path, file: Path, tmp_path: Path) -> None:
    matrices = []
    for model, offload in ((tiny_llama, "none"), (file, "none"), (file, "stream")):
        out = tmp_path / f"{model.name}.imatrix"
        made = hubquant("imatrix", "collect", str(model), "-o", str(out), *FEW, "--offload", offload)
        assert made.code == 0, made.err
        matrices.append(load_imatrix(out))
    first, *others = matrices
    for other in others:
        assert first.entries.keys() == other.entries.keys()
        for name, entry in first.entries.items():
            torch.testing.assert_close(entry.in_sum2, other.entries[name].in_sum2, rtol=1e-4, atol=0)
    made = hubquant(
        *(
            "quantize",
            str(file),
            "-t",
            "Q4_K_M,IQ2_XS",
            "-o",
            str(tmp_path),
            "--imatrix",
            str(tmp_path / "tiny.gguf.imatrix"),
        )
    )
    assert made.code == 0, made.err


def test_its_baseline_and_perplexity_are_the_checkpoints(tiny_llama: Path, file: Path, tmp_path: Path) -> None:
    for model in (tiny_llama, file):
        assert hubquant("evaluate", "baseline", str(model), "-o", str(tmp_path / f"{model.name}.h5"), *FEW).code == 0
    names = [str(tmp_path / f"{model.name}.h5") for model in (tiny_llama, file)]
    measured = json.loads(hubquant("evaluate", "compare", *names, "--json").out)
    assert abs(measured["kld"]["mean"]) < 1e-5
    ppl = [json.loads(hubquant("evaluate", "ppl", str(m), *FEW, "--json").out)["ppl"] for m in (tiny_llama, file)]
    assert ppl[0] == pytest.approx(ppl[1], rel=1e-4)


def test_quantizing_again_must_be_wanted(file: Path, tmp_path: Path) -> None:
    assert hubquant("quantize", str(file), "-t", "Q8_0", "-o", str(tmp_path)).code == 0
    arguments = ("quantize", str(tmp_path / "tiny-Q8_0.gguf"), "-t", "Q4_K_M", "-o", str(tmp_path))
    refused = hubquant(*arguments)
    assert refused.code == 2
    assert refused.is_one_message()
    assert "Q8_0" in refused.err
    assert "--allow-requantize" in refused.err
    assert hubquant(*arguments, "--allow-requantize").code == 0
    types = {entry.type for entry in GGUFFile.open(tmp_path / "tiny-Q8_0-Q4_K_M.gguf").tensors.values()}
    assert types == {"F32", "Q4_K", "Q6_K"}


MODES = ("exact", "best")


@pytest.mark.parametrize("mode", MODES)
def test_the_same_type_means_the_same_bytes(file: Path, mode: str, tmp_path: Path) -> None:
    """Whatever a file is quantized to: Q4_0 would be others, as quantizing again moves its scales."""
    assert hubquant("quantize", str(file), "-t", "Q4_0", "-o", str(tmp_path), "--mode", "exact").code == 0
    first = GGUFFile.open(tmp_path / "tiny-Q4_0.gguf")
    made = hubquant(
        *("quantize", str(tmp_path / "tiny-Q4_0.gguf"), "-t", "Q4_0,Q4_K_M,Q6_K,Q8_0", "-o", str(tmp_path / "again")),
        *("--mode", mode, "--allow-requantize"),
    )
    assert made.code == 0, made.err
    kept = 0
    for type in ("Q4_0", "Q4_K_M", "Q6_K", "Q8_0"):
        again = GGUFFile.open(tmp_path / "again" / f"tiny-Q4_0-{type}.gguf")
        for name, tensor in first.tensors.items():
            if again.tensors[name].type == tensor.type:
                assert torch.equal(again.data(name), first.data(name)), (type, name)
                kept += len(tensor.shape) > 1
    assert kept > len([tensor for tensor in first.tensors.values() if len(tensor.shape) > 1])  # output.weight is Q6_K


def test_a_run_takes_over_what_has_its_type(file: Path, small_settings: list[str], tmp_path: Path) -> None:
    assert hubquant("quantize", str(file), "-t", "Q6_K", "-o", str(tmp_path)).code == 0
    source = tmp_path / "tiny-Q6_K.gguf"
    options = ["--set", "quantize.types=[Q6_K,Q4_K_M]", "--set", "quantize.allow_requantize=true"]
    made = hubquant("run", str(source), *small_settings, *options, "-o", str(tmp_path / "out"))
    assert made.code == 0, made.err
    first = GGUFFile.open(source)
    for name in ("tiny-Q6_K-Q6_K.gguf", "tiny-Q6_K-Q4_K_M.gguf"):
        again = GGUFFile.open(tmp_path / "out" / name)
        same = [tensor for tensor in first.tensors if again.tensors[tensor].type == first.tensors[tensor].type]
        assert "output.weight" in same
        assert all(torch.equal(again.data(tensor), first.data(tensor)) for tensor in same)
    assert "hubquant.mode" not in GGUFFile.open(tmp_path / "out" / "tiny-Q6_K-Q6_K.gguf").metadata


def test_only_what_a_file_is_stands_in_it(tiny_llama: Path, file: Path, tmp_path: Path) -> None:
    """llama-quantize takes over every key of a file of floats, and what was quantized says how."""
    assert "hubquant.source_revision" in GGUFFile.open(file).metadata
    for type in ("F32", "F16", "BF16"):
        out = tmp_path / f"{type}.gguf"
        assert hubquant("convert", str(tiny_llama), "-o", str(out), "-t", type).code == 0
        keys = GGUFFile.open(out).metadata.keys()
        assert {key for key in keys if key.startswith("hubquant.")} == {"hubquant.source_revision"}
        assert "general.quantized_by" not in keys
    assert hubquant("quantize", str(file), "-t", "Q8_0", "-o", str(tmp_path)).code == 0
    quantized = GGUFFile.open(tmp_path / "tiny-Q8_0.gguf").metadata
    assert quantized["general.quantized_by"].value == "hubquant"
    assert {"hubquant.version", "hubquant.mode", "hubquant.recipe_sha256"} <= quantized.keys()
    back = hubquant(
        *("quantize", str(tmp_path / "tiny-Q8_0.gguf"), "-t", "F16", "-o", str(tmp_path), "--allow-requantize")
    )
    assert back.code == 0, back.err
    floats = GGUFFile.open(tmp_path / "tiny-Q8_0-F16.gguf").metadata
    assert {key for key in floats if key.startswith(("hubquant.", "quantize."))} == {"hubquant.source_revision"}


def test_a_file_names_the_calibration_of_a_given_matrix(tiny_llama: Path, file: Path, tmp_path: Path) -> None:
    matrix = tmp_path / "imatrix.gguf"
    assert hubquant("imatrix", "collect", str(tiny_llama), "-o", str(matrix), *FEW).code == 0
    made = hubquant("quantize", str(file), "-t", "Q4_K_M", "-o", str(tmp_path), "--imatrix", str(matrix))
    assert made.code == 0, made.err
    metadata = GGUFFile.open(tmp_path / "tiny-Q4_K_M.gguf").metadata
    calibration = load_imatrix(matrix).provenance["calibration_sha256"]
    assert metadata["hubquant.calibration_sha256"].value == calibration
    again = hubquant(
        *("quantize", str(tmp_path / "tiny-Q4_K_M.gguf"), "-t", "Q8_0", "-o", str(tmp_path), "--allow-requantize")
    )
    assert again.code == 0, again.err
    keys = GGUFFile.open(tmp_path / "tiny-Q4_K_M-Q8_0.gguf").metadata.keys()
    assert not [key for key in keys if key.startswith(("quantize.imatrix.", "hubquant.calibration"))]


def test_it_has_its_tokenizer(file: Path, tmp_path: Path) -> None:
    """Which may be given another name for its pre-tokenizer, one that llama.cpp knows."""
    refused = hubquant("imatrix", "collect", str(file), "-o", str(tmp_path / "i"), "--pre-tokenizer", "gpt-22")
    assert refused.code == 2
    assert refused.is_one_message()
    assert "pre-tokenizer 'gpt-22' is not known: nearest is 'gpt-2'" in refused.err


def test_its_tokenizer_is_compared_where_a_text_is_tokenized_with_it(file: Path, tmp_path: Path) -> None:
    line = ("plan", str(file), "--types", "Q8_0", "-o", str(tmp_path / "out"), "--json", "--set", "imatrix.skip=true")
    assert json.loads(hubquant(*line, "--no-eval").out)["tokenizer"] == "as it is in the file"
    assert json.loads(hubquant(*line).out)["tokenizer"].startswith("same tokens in llama.cpp")


def test_a_recipe_takes_it_as_its_model(file: Path, small_settings: list[str], tmp_path: Path) -> None:
    planned = hubquant("plan", str(file), *small_settings, "-o", str(tmp_path / "out"), "--json")
    assert planned.code == 0, planned.err
    sizes = {each["name"]: each["size"] for each in json.loads(planned.out)["files"]}
    made = hubquant("run", str(file), *small_settings, "-o", str(tmp_path / "out"), "--json")
    assert made.code == 0, made.err
    assert sizes.keys() == {"tiny-Q8_0.gguf", "tiny-Q4_K_M.gguf"}
    assert {name: (tmp_path / "out" / name).stat().st_size for name in sizes} == sizes
    report = {each["type"]: each for each in json.loads(made.out)["files"]}
    assert report["Q8_0"]["divergence"]["kld"]["mean"] < report["Q4_K_M"]["divergence"]["kld"]["mean"]
    source, quantized = GGUFFile.open(file), GGUFFile.open(tmp_path / "out" / "tiny-Q8_0.gguf")
    assert quantized.metadata["hubquant.source_revision"] == source.metadata["hubquant.source_revision"]
    assert source.metadata.keys() - quantized.metadata.keys() == set()
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "license: apache-2.0" in card
    recipe = tmp_path / "out" / "recipe.yaml"
    again = hubquant("run", str(recipe), "-o", str(tmp_path / "out"))
    assert again.code == 0, again.err
    assert "quantize: Q8_0, Q4_K_M (done before)" in again.err


def test_a_recipe_quantizes_again_only_where_it_says_so(file: Path, small_settings: list[str], tmp_path: Path) -> None:
    assert hubquant("quantize", str(file), "-t", "Q8_0", "-o", str(tmp_path)).code == 0
    arguments = ("plan", str(tmp_path / "tiny-Q8_0.gguf"), *small_settings)
    refused = hubquant(*arguments)
    assert refused.code == 2
    assert refused.is_one_message()
    assert "quantize.allow_requantize=true" in refused.err
    assert hubquant(*arguments, "--set", "quantize.allow_requantize=true").code == 0


def test_what_a_recipe_cannot_do_with_it(file: Path, small_settings: list[str], tmp_path: Path) -> None:
    cases = {
        "cannot be read": ("plan", str(tmp_path / "nothing.gguf")),
        "pre-tokenizer 'gpt-22' is not known": ("plan", str(file), "--pre-tokenizer", "gpt-22"),
        "file cannot be offloaded": ("plan", str(file), *small_settings, "--set", "imatrix.offload=cpu"),
        "GGUF file cannot be offloaded": (
            "imatrix",
            "collect",
            str(file),
            "-o",
            str(tmp_path / "x"),
            "--offload",
            "disk",
        ),
    }
    for message, arguments in cases.items():
        refused = hubquant(*arguments)
        assert refused.code == 2
        assert refused.is_one_message()
        assert message in refused.err


def test_weights_that_are_not_finite_are_named(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes())
    _, offset = GGUFFile.open(file).offset("blk.1.ffn_norm.weight")
    with open(broken, "r+b") as handle:
        handle.seek(offset)
        handle.write(b"\0\0\xc0\x7f")  # NaN
    refused = hubquant("quantize", str(broken), "-t", "F32", "-o", str(tmp_path))
    assert refused.code == 2
    assert refused.is_one_message()
    assert "blk.1.ffn_norm.weight holds 1 values that are NaN" in refused.err
    assert not list(tmp_path.glob("broken-*.gguf"))

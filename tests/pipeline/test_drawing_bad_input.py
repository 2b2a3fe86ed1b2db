"""Mistakes of who runs a diffusion model: one message, before any work, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.cli import Outcome, hubquant
from tests.support.diffusion import save_pipeline
from tests.support.localhub import LocalHub

Spoil = Callable[[Path], None]
SMALL = [f"{part}.pictures.{s}" for part in ("calibration", "evaluate") for s in ("count=2", "steps=2", "size=32")]
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline("flux", tmp_path_factory.mktemp("models") / "flux")


@pytest.fixture
def model(flux: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(flux, tmp_path / "model"))


def run(model: Path | str, tmp_path: Path, *settings: str, types: str = "Q8_0,Q4_0") -> Outcome:
    given = [part for setting in [*SMALL, *settings] for part in ("--set", setting)]
    outcome = hubquant("run", str(model), "--types", types, "--out", str(tmp_path / "out"), *given)
    print(outcome.err)
    assert not list(tmp_path.rglob("*.gguf"))
    assert not list((tmp_path / "out").rglob("*.partial*"))
    return outcome


def refused(model: Path | str, tmp_path: Path, *settings: str, types: str = "Q8_0,Q4_0") -> str:
    outcome = run(model, tmp_path, *settings, types=types)
    assert outcome.code == 2, outcome.err
    assert outcome.is_one_message(), outcome.err
    assert not (tmp_path / "out").exists()
    return outcome.err


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(path)), path, {"format": "pt"})


def _pickled(folder: Path) -> None:
    (folder / "text_encoder_2" / "model.safetensors").unlink()
    (folder / "text_encoder_2" / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")


MODELS: dict[str, tuple[Spoil, str]] = {
    "no denoiser": (
        lambda f: edit(f / "model_index.json", transformer=[None, None]),
        "a pipeline without a denoiser",
    ),
    "pickled text encoder": (_pickled, "text_encoder_2 has pickled weights only"),
    "no VAE's config": (lambda f: (f / "vae" / "config.json").unlink(), "vae"),
    "a class of the repository": (
        lambda f: edit(f / "model_index.json", vae=["pipeline_mine", "MyVAE"]),
        "code that comes with a repository is never run",
    ),
    "a pipeline of the repository": (
        lambda f: edit(f / "model_index.json", _class_name="MyPipeline"),
        "code that comes with a repository is never run",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_used(name: str, model: Path, tmp_path: Path) -> None:
    spoil, named = MODELS[name]
    spoil(model)
    assert named in refused(model, tmp_path)


@pytest.mark.parametrize("name", ["pickled text encoder", "a class of the repository"])
def test_a_repository_that_cannot_be_used_is_not_downloaded(
    name: str, model: Path, hub: LocalHub, tmp_path: Path
) -> None:
    spoil, named = MODELS[name]
    spoil(model)
    hub.add("org/bad", {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*.*")})
    assert named in refused("org/bad", tmp_path)
    assert all("range" in call.headers for call in hub.requests("GET .*_cdn"))
    assert not hub.requests("GET .*pytorch_model.bin")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["evaluate.pictures.size=100"], "nearest size that it can make is 96x96"),
        (["calibration.pictures.size=100"], "nearest size that it can make is 96x96"),
        (["evaluate.pictures.frames=5"], "FluxPipeline has no frames to be set"),
        (["evaluate.pictures.steps=0"], "steps"),
        (["quantize.prune_layers=[0]"], "prune_layers"),
        (["quantize.output_tensor=Q8_0"], "output_tensor"),
        (["quantize.token_embedding=Q8_0"], "token_embedding"),
        (["quantize.leave_output_tensor=true"], "leave_output_tensor"),
        (["calibration.pictures.prompts=[{file: none.txt}]"], "none.txt"),
        (["gates.prediction_error={Q5_0: 0.1}"], "Q5_0"),
        (["model.component=vae"], "vae cannot be quantized"),
        (["imatrix.file=none.gguf"], "none.gguf"),
        (["imatrix.offload=stream"], "offload"),
        (["imatrix.process_output=true"], "process_output"),
        (["evaluate.way=streamed"], "way"),
        (["evaluate.engine=both"], "engine"),
        (["evaluate.margin=0.05"], "margin"),
        (["calibration.sources=[{file: my.txt}]"], "use calibration.pictures.prompts"),
        (["evaluate.sources=[{dataset: org/texts}]"], "use evaluate.pictures.prompts"),
        (["gates.kld_mean={Q8_0: 0.1}"], "use gates.prediction_error"),
        (["gates.cosine_mean={Q8_0: 0.1}"], "for encoders"),
    ],
)
def test_settings_that_cannot_be_meant(settings: list[str], named: str, flux: Path, tmp_path: Path) -> None:
    assert named in refused(flux, tmp_path, *settings)


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing but a comment\n"])
def test_a_file_without_prompts(content: str, flux: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(content)
    err = refused(flux, tmp_path, f"calibration.pictures.prompts=[{{file: {tmp_path}/prompts.txt}}]")
    assert "prompts.txt holds no prompts" in err


def test_prompts_that_are_cut_are_told_of_in_the_plan(flux: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("lighthouse " * 20 + "\na bicycle\n")
    prompts = f"evaluate.pictures={{count: 2, prompts: [{{file: {tmp_path}/prompts.txt}}]}}"
    planned = hubquant("plan", str(flux), "--types", "Q8_0", "--set", prompts, "--set", "imatrix.skip=true", "--json")
    assert planned.code == 0, planned.err
    notes = json.loads(planned.out)["notes"]
    assert any("1 prompt is longer than the 77 tokens that text_encoder reads" in note for note in notes)


@pytest.mark.parametrize("suffix", ["gguf", "dat"])
def test_the_imatrix_of_another_family(suffix: str, flux: Path, tmp_path: Path) -> None:
    from hubquant.imatrix import Entry, ImportanceMatrix, save

    entry = Entry(torch.ones(1, 64), torch.tensor([4.0]), None)
    matrix = ImportanceMatrix({"joint_blocks.0.x_block.attn.qkv.weight": entry}, (), 1, 1, {})
    save(matrix, tmp_path / f"other.{'imatrix' if suffix == 'gguf' else suffix}")
    given = f"imatrix.file={tmp_path}/other.{'imatrix' if suffix == 'gguf' else suffix}"
    assert "belongs to another model" in refused(flux, tmp_path, given)


def test_weights_that_are_not_numbers(model: Path, tmp_path: Path) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["x_embedder.weight"][0, 0] = torch.nan
        return weights

    edit_weights(model / WEIGHTS, spoil)
    for skipped in ((), ("imatrix.skip=true", "evaluate.skip=true")):
        outcome = run(model, tmp_path, *skipped)
        assert outcome.code == 2, outcome.err
        assert outcome.is_one_message(), outcome.err
        assert "NaN" in outcome.err


def test_pictures_that_are_not_numbers(model: Path, tmp_path: Path) -> None:
    """The VAE's weights are finite, and what it computes is not."""
    edit_weights(model / "vae/diffusion_pytorch_model.safetensors", lambda w: {name: x * 1e30 for name, x in w.items()})
    outcome = run(model, tmp_path)
    assert outcome.code == 1 or outcome.code == 2, outcome.err
    assert outcome.is_one_message(), outcome.err
    assert "NaN or infinite" in outcome.err


def test_without_diffusers(flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "diffusers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    err = refused(flux, tmp_path)
    assert "diffusion models need diffusers" in err
    assert "pip install 'hubquant[diffusion]'" in err
    skipped = [part for setting in ("imatrix.skip=true", "evaluate.skip=true") for part in ("--set", setting)]
    made = hubquant("run", str(flux), "--types", "Q8_0", "--out", str(tmp_path / "out"), *skipped)
    assert made.code == 0, made.err
    assert (tmp_path / "out" / "flux-Q8_0.gguf").exists()

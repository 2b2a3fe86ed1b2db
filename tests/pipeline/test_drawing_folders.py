"""Folders of libraries of a diffusion pipeline's denoiser, beside GGUF files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hubquant.backends.folder import folder_plan
from hubquant.backends.probe import PROBE, check_reloaded
from hubquant.engine.progress import Silent
from hubquant.engine.store import Store
from hubquant.engine.task import Context
from hubquant.errors import VerificationError
from hubquant.evaluate.pictures import predicted
from hubquant.pipeline.plan import make_plan
from hubquant.pipeline.work import open_model
from hubquant.recipe.schema import ModelReference, Recipe
from tests.support.cli import hubquant
from tests.support.diffusion import save_pipeline

FAMILY, WIDTH = "flux", 256
"""SDNQ leaves layers of less than 16384 weights in floats."""
SDNQ, TORCHAO = "sdnq-uint4", "torchao-int8wo"
PICTURES = {"count": 2, "steps": 2, "size": 32}
SETTINGS = ["--set", "imatrix.skip=true"]
SETTINGS += [part for name, value in PICTURES.items() for part in ("--set", f"evaluate.pictures.{name}={value}")]


@pytest.mark.slow
def test_a_run_makes_folders_that_diffusers_loads(tmp_path: Path, store: Path) -> None:
    from diffusers import FluxTransformer2DModel

    pipeline, out = save_pipeline(FAMILY, tmp_path / "tiny", WIDTH), tmp_path / "out"
    types = "Q8_0,sdnq:uint4,torchao:int8wo"
    line = ["run", str(pipeline), "--types", types, *SETTINGS, "--set", "quantize.skip_modules=[proj_out]"]
    line += ["--out", str(out)]
    first = hubquant(*line)
    assert first.code == 0, first.err
    measured = {each["type"]: each for each in json.loads((out / "measurements.json").read_text())["files"]}
    assert measured.keys() == {*types.split(",")}
    errors = {type: each["fidelity"]["error"] for type, each in measured.items()}
    assert 0 < errors["torchao:int8wo"] < errors["sdnq:uint4"] < 1
    for type in ("sdnq:uint4", "torchao:int8wo"):
        found = measured[type]
        assert len(found["fidelity"]["by_step"]) == 2
        assert found["fidelity"]["psnr"] is not None
        assert 0 < found["library"]["n_left"] < found["library"]["n_layers"]
        assert found["library"]["difference"] < 1e-5
        assert found["speed"]["tokens_per_second"] is None
        assert found["speed"]["load_seconds"] > 0
    card = (out / "README.md").read_text()
    assert "Tokens/s" not in card
    assert "its predictions were what was saved" in card
    assert f'transformer = FluxTransformer2DModel.from_pretrained("./{SDNQ}", torch_dtype=torch.float32)' in card
    assert "FluxPipeline.from_pretrained(" in card

    recipe = Recipe.model_validate(
        {
            "model": {"folder": str(pipeline)},
            "quantize": {"types": types.split(","), "skip_modules": ["proj_out"]},
            "imatrix": {"skip": True},
            "evaluate": {"pictures": PICTURES},
        }
    )
    opened = Store()
    plan, context = make_plan(recipe, out, opened, Silent()), Context(opened, Silent())
    drawn = context.read(plan.tasks.drawings[0].baseline)
    call = next(drawn.tape.calls(0))
    for tasks in plan.tasks.folders:
        folder = out / tasks.plan.name
        config = json.loads((folder / "config.json").read_text())
        assert config["quantization_config"]
        assert str(tmp_path) not in (folder / "config.json").read_text()
        if tasks.plan.name == TORCHAO:  # of so small a model SDNQ leaves much as it is
            assert tasks.folder.plan.size == pytest.approx(tasks.folder.facts(context).size, rel=0.3)
        loaded = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32)
        kept = load_file(opened.path(tasks.folder) / PROBE)["predictions"]
        assert torch.equal(torch.cat([one.flatten() for one in predicted(loaded, call)]), kept)

    again = hubquant("plan", *line[1:])
    assert "none, it is done" in again.out

    gated = hubquant(*line, "--set", "gates.prediction_error={'sdnq:uint4': 0.00001, 'torchao:int8wo': 0.9}")
    assert gated.code == 1, gated.err
    assert "sdnq:uint4 is not published: its prediction error is above" in gated.out
    assert not any((out / SDNQ).glob("*"))
    assert (out / TORCHAO / "config.json").is_file()

    kept_in = opened.path(plan.tasks.folders[1].folder)
    folder = kept_in / TORCHAO
    [weights] = folder.glob("*.safetensors")
    tensors = load_file(weights)
    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    weights.unlink()
    save_file({**tensors, "proj_out.bias": tensors["proj_out.bias"] + 1}, weights, metadata)
    with pytest.raises(VerificationError, match="is not what was saved"):
        check_reloaded(folder, "torchao", kept_in, "cpu", drawn.tape.folder)
    assert store.exists()


@pytest.mark.parametrize(
    ("types", "settings", "what"),
    [
        ("nncf:int8_sym", (), "choose sdnq:int8"),
        ("torchao:int4wo", (), "sdnq:uint4"),
        ("sdnq:float8_e5m2", (), "choose sdnq:float8_e4m3fn"),
        ("bitsandbytes:nf4", (), "choose sdnq:uint4 or sdnq:int8"),
        ("sdnq:uint4", ("--set", "evaluate.skip=true"), "leave evaluate.skip out"),
    ],
)
def test_mistakes_are_told_before_any_work(types: str, settings: tuple[str, ...], what: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = hubquant("run", "quickstart-diffusion", "--types", types, *SETTINGS, *settings, "--out", str(out))
    assert outcome.code == 2
    assert what in outcome.err
    assert not out.exists()


def test_a_denoiser_alone_is_refused(tmp_path: Path) -> None:
    folder = save_pipeline("sd15", tmp_path / "tiny") / "unet"
    outcome = hubquant("plan", str(folder), "--types", "sdnq:uint4", *SETTINGS, "--set", "evaluate.skip=true")
    assert outcome.code == 2
    assert "name the folder or the repository of the pipeline" in outcome.err


def test_a_folder_is_called_after_its_part_where_that_is_not_the_first(tmp_path: Path) -> None:
    pipeline = save_pipeline("wan", tmp_path / "tiny")
    names = {}
    index = json.loads((pipeline / "model_index.json").read_text())
    (pipeline / "transformer_2").symlink_to("transformer")
    (pipeline / "model_index.json").write_text(json.dumps({**index, "transformer_2": index["transformer"]}))
    for part in ("transformer", "transformer_2"):
        component = open_model(ModelReference(folder=str(pipeline), component=part), None, Silent())
        names[part] = folder_plan(component, "sdnq:uint4").name
    assert names == {"transformer": "sdnq-uint4", "transformer_2": "sdnq-uint4-transformer_2"}

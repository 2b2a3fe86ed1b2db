"""Folders of pipelines: what is loaded, and what is refused without being run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet, UserError
from hubquant.models.diffusion import draw, empty_pipeline, load_pipeline
from hubquant.models.diffusion.index import read_index, read_parts
from hubquant.models.diffusion.placement import automatic_offload, place
from hubquant.recipe.pictures import Pictures
from tests.support.diffusion import FAMILIES, FRAMES, call_pipeline, make_pipeline, save_pipeline

GIB = 1 << 30


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline("flux", tmp_path_factory.mktemp("flux"))


@pytest.fixture
def folder(flux: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(flux, tmp_path / "flux"))


def drawn(pipe: Any, family: str = "flux") -> torch.Tensor:
    return draw(pipe, ["a red cat"], [3], Pictures(size=32, steps=2, frames=FRAMES.get(family))).pictures


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_saved_draws_what_a_plain_call_does(
    family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe = make_pipeline(family)
    pipe.save_pretrained(tmp_path)
    expected = call_pipeline(pipe, family, ["a red cat"], [3])
    capfd.readouterr()
    pipe = load_pipeline(tmp_path, "cpu")
    pictures = drawn(pipe, family)
    assert capfd.readouterr() == ("", "")
    torch.testing.assert_close(pictures, expected.reshape(pictures.shape), atol=1e-4, rtol=0)
    assert pictures.shape == (1, FRAMES.get(family, 1), 3, 32, 32)
    assert 0 <= pictures.min() < pictures.max() <= 1
    assert pictures.std() > 0.05
    assert not any(parameter.requires_grad for parameter in pipe.vae.parameters())


@pytest.mark.parametrize("options", [{"variant": "fp16"}, {"variant": "fp16", "max_shard_size": "300KB"}])
def test_variants_and_shards(options: dict[str, Any], flux: Path, tmp_path: Path) -> None:
    save_pipeline("flux", tmp_path, **options)
    shutil.rmtree(tmp_path / "vae")
    shutil.copytree(flux / "vae", tmp_path / "vae")
    parts = read_parts(read_index(tmp_path))
    assert (parts["transformer"].variant, parts["vae"].variant) == ("fp16", None)
    assert drawn(load_pipeline(tmp_path, "cpu")).equal(drawn(load_pipeline(flux, "cpu")))


def test_weights_in_half_precision_are_widened_where_memory_suffices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = make_pipeline("flux")
    expected = drawn(pipe)
    pipe.transformer.to(torch.bfloat16)
    pipe.save_pretrained(tmp_path)
    parts = read_parts(read_index(tmp_path))
    assert {name: part.dtype for name, part in parts.items() if part.dtype != "F32"} == {"transformer": "BF16"}
    wide = load_pipeline(tmp_path, "cpu")
    assert wide.transformer.proj_out.weight.equal(pipe.transformer.proj_out.weight.float())

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=800_000))
    assert place(parts, "cpu", disk=tmp_path).offload == "group"
    narrow = load_pipeline(tmp_path, "cpu")
    dtypes = {name: next(getattr(narrow, name).parameters()).dtype for name in parts}
    assert dtypes == {name: torch.float32 if name == "vae" else torch.bfloat16 for name in parts}
    found = draw(narrow, ["a red cat"], [3], Pictures(size=32, steps=2))
    for name in ("text_encoder", "text_encoder_2"):
        getattr(pipe, name).to(torch.bfloat16)
    torch.testing.assert_close(found.latents, call_pipeline(pipe, "flux", ["a red cat"], [3], "latent").float())
    assert 0 < (found.pictures - expected).abs().mean() < 0.1 * expected.std()


def test_what_is_offloaded_when_nobody_says_so() -> None:
    sizes = [24 * GIB, 10 * GIB, GIB]
    assert automatic_offload("cuda", sizes, 80 * GIB, has_disk=False) == "none"
    assert automatic_offload("cuda", sizes, 40 * GIB, has_disk=False) == "model"
    assert automatic_offload("cuda", sizes, 24 * GIB, has_disk=False) == "group"
    assert automatic_offload("cpu", sizes, 40 * GIB, has_disk=True) == "group"
    assert automatic_offload("cpu", sizes, 40 * GIB, has_disk=False) == "none"
    assert automatic_offload("cpu", sizes, 80 * GIB, has_disk=True) == "none"


@pytest.mark.parametrize("family", ["flux", "ltx"])
def test_groups_on_disk_draw_the_same(family: str, tmp_path: Path) -> None:
    save_pipeline(family, tmp_path / "pipe")
    expected = drawn(load_pipeline(tmp_path / "pipe", "cpu"), family)
    other = save_pipeline(family, tmp_path / "other", seed=1)
    load_pipeline(other, "cpu", "group", tmp_path / "disk")  # leaves its weights there
    pipe = load_pipeline(tmp_path / "pipe", "cpu", "group", tmp_path / "disk")
    assert sum(path.stat().st_size for path in (tmp_path / "disk").rglob("*.safetensors")) > 500_000
    torch.testing.assert_close(drawn(pipe, family), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(drawn(pipe, family), expected, atol=1e-6, rtol=0)


def test_what_needs_a_gpu_or_a_disk_says_so(flux: Path) -> None:
    with pytest.raises(UserError, match="offload model needs a GPU"):
        load_pipeline(flux, "cpu", "model")
    with pytest.raises(UserError, match="offload group without a GPU needs a folder"):
        load_pipeline(flux, "cpu", "group")


def test_what_paints_over_pictures_is_left_out(tmp_path: Path) -> None:
    save_pipeline("sd15", tmp_path)
    edit(tmp_path / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    pipe = load_pipeline(tmp_path, "cpu")
    assert pipe.safety_checker is None
    drawn(pipe)


def code(folder: Path) -> None:
    for name in ("mine.py", "transformer/mine.py", "pipeline.py"):
        (folder / name).write_text(f"open({str(folder / 'it_ran')!r}, 'w')\nclass Mine: pass\n")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"_class_name": ["mine", "Mine"]}, "which is no pipeline of diffusers"),
        ({"_class_name": "Mine"}, "names Mine, which is no pipeline of diffusers"),
        ({"_class_name": "FluxTransformer2DModel"}, "which is no pipeline of diffusers"),
        ({"transformer": ["mine", "Mine"]}, r"transformer is a mine\.Mine, which is no model"),
        ({"transformer": ["os", "PathLike"]}, r"transformer is a os\.PathLike, which is no model"),
        ({"tokenizer": ["transformers", "RagRetriever"]}, r"transformers\.RagRetriever, which is no model"),
        ({"transformer": ["diffusers", "AutoModel"]}, r"diffusers\.AutoModel, which is no model"),
        ({"transformer": ["diffusers"]}, "model_index.json says of transformer"),
        ({"../transformer": ["diffusers", "FluxTransformer2DModel"]}, "model_index.json says of ../transformer"),
        ({"transformer": [None, None]}, "FluxPipeline has no denoiser"),
    ],
)
def test_an_index_that_names_what_is_not_loaded(folder: Path, entry: dict[str, Any], message: str) -> None:
    code(folder)
    edit(folder / "model_index.json", **entry)
    for load in (empty_pipeline, load_pipeline):
        with pytest.raises(CheckpointError, match=message):
            load(folder)
    assert not (folder / "it_ran").exists()


def test_a_processor_whose_parts_are_code(folder: Path) -> None:
    code(folder)
    edit(folder / "model_index.json", processor=["transformers", "Qwen2VLProcessor"])
    shutil.copytree(folder / "tokenizer", folder / "processor")
    assert "processor" in read_index(folder).others
    edit(folder / "processor" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Mine", None]})
    with pytest.raises(CheckpointError, match=r"processor/tokenizer_config\.json names code of its own"):
        read_index(folder)


def pickled(folder: Path) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def without_a_weight(folder: Path) -> None:
    weights = folder / "text_encoder_2" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["encoder.final_layer_norm.weight"]
    save_file(tensors, weights, {"format": "pt"})


def with_nan(folder: Path) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["proj_out.weight"][0, 0] = float("nan")
    save_file(tensors, weights, {"format": "pt"})


def smaller(folder: Path) -> None:
    edit(folder / "transformer" / "config.json", num_layers=0)
    edit(folder / "transformer" / "config.json", joint_attention_dim=48)


def out_of_the_folder(folder: Path) -> None:
    config = folder / "vae" / "config.json"
    config.rename(folder.parent / "config.json")
    config.symlink_to(folder.parent / "config.json")


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (pickled, CheckpointError, "transformer has pickled weights only"),
        (without_a_weight, CheckpointError, r"text_encoder_2 lacks 1 of its weights: encoder\.final_layer_norm"),
        (with_nan, CheckpointError, r"transformer\.proj_out\.weight holds 1 values that are NaN"),
        (smaller, CheckpointError, "transformer cannot be loaded"),
        (out_of_the_folder, CheckpointError, "leads out of the model's folder"),
        (lambda folder: shutil.rmtree(folder / "vae"), CheckpointError, "there is no config.json"),
        (lambda folder: (folder / "model_index.json").unlink(), CheckpointError, "there is no model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), CheckpointError, "is not sound JSON"),
        (lambda folder: (folder / "tokenizer_2" / "tokenizer.json").write_text("{"), CheckpointError, "be loaded"),
        (
            lambda folder: edit(folder / "transformer" / "config.json", quantization_config={"load_in_4bit": True}),
            NotSupportedYet,
            "transformer is quantized already",
        ),
    ],
)
def test_folders_that_are_broken(
    folder: Path, spoil: Callable[[Path], Any], kind: type[HubquantError], message: str
) -> None:
    spoil(folder)
    with pytest.raises(kind, match=message) as caught:
        load_pipeline(folder, "cpu")
    assert caught.value.hint


def test_without_diffusers(flux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match="diffusion models need diffusers") as caught:
        load_pipeline(flux)
    assert "hubquant[diffusion]" in str(caught.value.hint)

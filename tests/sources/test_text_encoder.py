"""Text encoders of diffusers pipelines: opened, quantized with the tokenizer that lies beside them, and measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer, T5EncoderModel

import hubquant as hubquant_api
from hubquant.convert.restore import load_model
from hubquant.errors import HubquantError, NotSupportedYet, UserError
from hubquant.gguf_file import GGUFFile
from hubquant.imatrix import load_imatrix
from hubquant.recipe.schema import ModelReference
from hubquant.sources.component import Component
from hubquant.sources.open import open_component
from tests.convert.test_encoders import IDS, build, hidden
from tests.observe.test_pictures import plain_hooks
from tests.support.cli import hubquant
from tests.support.conversion import configure
from tests.support.diffusion import call_pipeline, make_pipeline, save_pipeline
from tests.support.llamacpp import LlamaCpp
from tests.support.localhub import LocalHub

TEXT = "a lighthouse at dusk, “perplexity” ½"


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a T5 whose tokenizer treats white space as the published ones do."""
    folder = save_pipeline("flux", tmp_path_factory.mktemp("pipeline") / "flux")
    for part in ("text_encoder_2", "tokenizer_2"):
        shutil.rmtree(folder / part)
    build("t5 with gates", folder / "text_encoder_2")
    (folder / "tokenizer_2").mkdir()
    for path in (folder / "text_encoder_2").glob("*token*"):
        path.rename(folder / "tokenizer_2" / path.name)
    return folder


def opened(folder: Path, component: str) -> Component:
    return open_component(ModelReference(folder=str(folder), component=component))


def test_a_text_encoder_is_quantized_with_its_tokenizer(flux: Path, tmp_path: Path) -> None:
    out, chosen = tmp_path / "out", ("--component", "text_encoder_2")
    done = hubquant("quantize", str(flux), *chosen, "-t", "F32,Q8_0", "-o", str(out))
    assert done.code == 0, done.err
    assert {path.name for path in out.iterdir()} == {f"flux-text_encoder_2-{type}.gguf" for type in ("F32", "Q8_0")}
    written = hubquant("convert", str(flux), *chosen, "-t", "F32", "-o", str(tmp_path / "f32.gguf"))
    assert written.code == 0, written.err
    path = out / "flux-text_encoder_2-F32.gguf"
    assert GGUFFile.open(path).metadata["general.architecture"].value == "t5encoder"
    tokenizer: Any = AutoTokenizer.from_pretrained(flux / "tokenizer_2")
    expected = hidden(T5EncoderModel.from_pretrained(flux / "text_encoder_2").eval())
    for file in (path, tmp_path / "f32.gguf"):
        with LlamaCpp(file, encoder=True) as llama:
            assert llama.tokenize(TEXT) == tokenizer(TEXT)["input_ids"]
            assert np.abs(llama.embeddings(IDS) - expected).max() < 2e-3 * np.abs(expected).max()
        assert np.abs(hidden(load_model(file)) - expected).max() < 1e-5 * np.abs(expected).max()


def test_several_components(flux: Path, tmp_path: Path) -> None:
    both = ("--components", "transformer,text_encoder_2")
    done = hubquant("quantize", str(flux), *both, "-t", "Q8_0", "-o", str(tmp_path / "out"))
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"flux-Q8_0.gguf", "flux-text_encoder_2-Q8_0.gguf"}
    bare = ("--types", "Q8_0", "--no-eval", "--set", "imatrix.skip=true", "--out", str(tmp_path / "run"))
    run = hubquant("run", str(flux), *both, *bare, "--json")
    assert run.code == 0, run.err
    assert [Path(json.loads(line)["output"]).name for line in run.out.splitlines()] == [*both[1].split(",")]
    assert {path.name for path in (tmp_path / "run").glob("*/*.gguf")} == {
        path.name for path in (tmp_path / "out").iterdir()
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (("quantize", "-t", "Q8_0", "-o", "x.gguf"), "x.gguf is one file, and 2 components are asked for"),
        (("quantize", "-t", "Q8_0", "-o", "x", "--name", "{type}"), "--name {type} is the same for every component"),
        (("plan", "--push", "me/x"), "me/x is one repository, and 2 components are asked for"),
        (("convert", "-o", "x.gguf"), "run it once for each"),
    ],
    ids=lambda line: line[0] if isinstance(line, tuple) else None,
)
def test_several_components_need_a_place_each(flux: Path, line: tuple[str, ...], told: str) -> None:
    done = hubquant(line[0], str(flux), "--component", "transformer,text_encoder_2", *line[1:])
    assert done.code == 2
    assert told in done.err


def test_a_run_calibrates_and_measures_it_as_an_encoder(flux: Path, tmp_path: Path) -> None:
    small = ["--set", "calibration={chunks: 4, chunk_size: 64}", "--set", "evaluate={chunks: 40, chunk_size: 32}"]
    chosen = ("--component", "text_encoder_2", "--types", "Q4_K_M")
    done = hubquant("run", str(flux), *chosen, "--out", str(tmp_path), *small, "--json")
    assert done.code == 0, done.err
    [file] = json.loads(done.out)["files"]
    assert 0.9 < file["similarity"]["cosine"] < 1
    made = GGUFFile.open(tmp_path / "flux-text_encoder_2-Q4_K_M.gguf")
    assert made.metadata["quantize.imatrix.entries_count"].value == 14
    card = (tmp_path / "README.md").read_text()
    assert "Quantized files of the text encoder (`text_encoder_2`) of flux" in card
    assert 'The node "CLIPLoader (GGUF)" then has it' in card
    assert "`--t5xxl flux-text_encoder_2-Q4_K_M.gguf`, beside the denoiser" in card
    assert "llama-server" not in card


def test_of_the_hub_only_its_own_weights_are_pulled(hub: LocalHub, flux: Path, tmp_path: Path) -> None:
    hub.add("org/flux", flux)
    component = open_component(ModelReference(id="org/flux", component="text_encoder_2"))
    assert component.source.weight_files == ("text_encoder_2/model.safetensors",)
    assert component.shapes == opened(flux, "text_encoder_2").shapes
    done = hubquant("quantize", "org/flux", "--component", "text_encoder_2", "-t", "Q8_0", "-o", str(tmp_path))
    assert done.code == 0, done.err
    pulled = {entry.line.rsplit("/", 2)[-2] for entry in hub.requests(r"GET .*resolve.*\.safetensors")}
    assert pulled == {"text_encoder_2"}
    local = component.source.identity | opened(flux, "text_encoder_2").source.identity
    assert local["component"] == "text_encoder_2"


@pytest.mark.parametrize(
    ("component", "error", "told"),
    [
        ("text_encoder", NotSupportedYet, r"CLIPTextModel.*no architecture for CLIP"),
        ("text_encoder_3", UserError, "can be transformer, text_encoder, text_encoder_2"),
        ("vae", UserError, "can be transformer, text_encoder, text_encoder_2"),
    ],
)
def test_what_cannot_be_quantized(flux: Path, component: str, error: type[HubquantError], told: str) -> None:
    with pytest.raises(error, match=told):
        opened(flux, component)


def test_clips_own_file_is_named(flux: Path) -> None:
    with pytest.raises(NotSupportedYet) as found:
        opened(flux, "text_encoder")
    assert found.value.hint == "use text_encoder/model.safetensors of flux as it stands"


def test_a_model_without_components(tmp_path: Path) -> None:
    folder = build("bert", tmp_path / "bert")
    done = hubquant("quantize", str(folder), "--component", "text_encoder", "-t", "Q8_0", "-o", str(tmp_path / "out"))
    assert done.code == 2
    assert done.is_one_message()
    assert "leave --component out" in done.err


def test_qwens_that_see_are_called_as_their_consumers_know_them(tmp_path: Path) -> None:
    folder, file = save_pipeline("qwen_image", tmp_path / "qwen"), tmp_path / "text.gguf"
    (folder / "tokenizer" / "chat_template.jinja").unlink()  # whose tokens the tiny tokenizer splits
    path = folder / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["rms_norm_eps"] = 1e-12  # llama.cpp b11549 takes none for this architecture
    path.write_text(json.dumps(config))
    done = hubquant("convert", str(folder), "--component", "text_encoder", "-t", "F32", "-o", str(file))
    assert done.code == 0, done.err
    metadata = GGUFFile.open(file).metadata
    assert metadata["general.architecture"].value == "qwen2vl"
    assert metadata["qwen2vl.rope.dimension_sections"].value == (2, 3, 3, 0)
    assert not any(key.startswith("qwen2.") for key in metadata)
    ids = torch.arange(5, 60)[None]
    whole: Any = AutoModelForImageTextToText.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    with torch.no_grad():
        expected = whole.eval()(ids).logits[0].numpy()
        restored = load_model(file)(ids).logits[0].numpy()
    with LlamaCpp(file) as llama:
        found = llama.logits(ids[0].tolist())
    for each, limit in ((found, 1e-3), (restored, 1e-4)):
        assert np.abs(each - expected).max() < limit * np.abs(expected).max()


@pytest.mark.parametrize(("family", "architecture"), [("flux2", "qwen3"), ("lumina2", "gemma2")])
def test_language_models_that_read_prompts(family: str, architecture: str, tmp_path: Path) -> None:
    folder = save_pipeline(family, tmp_path)
    if family == "lumina2":
        configure(folder / "text_encoder", query_pre_attn_scalar=16)
    component = opened(folder, "text_encoder")
    assert component.conversion.architecture == architecture
    loaded = component.source.tokenizer()(TEXT)["input_ids"]
    assert loaded == AutoTokenizer.from_pretrained(tmp_path / "tokenizer")(TEXT)["input_ids"]
    told = any("ComfyUI-GGUF loads" in note for note in component.conversion.notes)
    assert told == (architecture == "gemma2")
    with torch.no_grad():
        ids = torch.tensor([[1, 2, 3]])
        assert component.source.load(device="cpu")(ids) is not None


@pytest.mark.parametrize(("family", "component"), [("flux", "text_encoder_2"), ("z_image", "text_encoder")])
def test_a_matrix_of_pictures_has_its_importance_too(family: str, component: str, tmp_path: Path) -> None:
    folder = save_pipeline(family, tmp_path / family)
    pipe = make_pipeline(family)
    with plain_hooks(getattr(pipe, component)) as plain, hubquant_api.observe(pipe, tmp_path / "imatrix.gguf"):
        call_pipeline(pipe, family, ["a red cat"], [0])
    encoder = opened(folder, component)
    matrix = encoder.fitted(load_imatrix(tmp_path / "imatrix.gguf"))
    taps: Any = encoder.conversion.taps
    assert matrix.entries.keys() == {name for name in taps if "blk." in name}
    for name, entry in matrix.entries.items():
        module = taps[name].module.removeprefix("model.")
        assert entry.counts.tolist() == [plain.rows[module]]
        torch.testing.assert_close(entry.in_sum2[0], plain.sum2[module], rtol=1e-4, atol=1e-6)

"""Files of denoisers as they are found: each becomes the tensors that it holds, or one error that says what it is."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hubquant.convert.diffusion.flux import FLUX
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet, UserError
from hubquant.gguf_file import GGUFFile, GGUFWriter, TensorEntry, plan_layout
from hubquant.gguf_file.metadata import Metadata, string
from hubquant.imatrix import Entry, ImportanceMatrix
from hubquant.recipe.references import model_reference
from hubquant.recipe.schema import ModelReference
from hubquant.sources.component import Component
from hubquant.sources.denoiser import DenoiserSource
from hubquant.sources.open import open_component
from tests.convert.diffusion.test_families import TINY, Tensors, converted, state
from tests.support.cli import hubquant
from tests.support.diffusion import FAMILIES, make_pipeline, save_pipeline
from tests.support.localhub import LocalHub

PREFIX = "model.diffusion_model."
QKV = "double_blocks.0.img_attn.qkv.weight"


def flux() -> Tensors:
    return converted(FLUX, state("flux-dev"), "diffusers")


def opened(path: Path, **settings: Any) -> Component:
    return open_component(ModelReference.model_validate({**model_reference(str(path)), **settings}))


def made(component: Component) -> Tensors:
    """What is written in floats."""
    checkpoint = component.source.checkpoint
    found: Tensors = {}
    for bundle in component.conversion.bundles:
        sources = [checkpoint.read(name) for name in bundle.sources]
        found |= bundle.forward(sources)
    return found


def saved(path: Path, tensors: Tensors) -> Path:
    save_file({name: x.clone() for name, x in tensors.items()}, path)
    return path


def assert_same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        assert torch.equal(found[name].float(), x.float()), name


def notes(component: Component) -> str:
    return " | ".join(component.conversion.notes)


# Single files


OTHERS: dict[str, Tensors] = {
    "text encoders": {"text_encoders.clip_l.transformer.x": torch.ones(2), "cond_stage_model.y": torch.ones(2)},
    "a VAE": {"vae.decoder.conv_in.weight": torch.ones(2, 2), "first_stage_model.z": torch.ones(2)},
    "leftovers": {
        "model_ema.decay": torch.ones(1),
        "betas": torch.ones(2),
        "sqrt_one_minus_alphas_cumprod": torch.ones(2),
        "denoiser.sigmas": torch.ones(2),
        "edm_mean": torch.ones(2),
        "v_pred": torch.ones(1),
    },
}


@pytest.mark.parametrize("others", [(), ("text encoders", "a VAE", "leftovers"), ("leftovers",)])
@pytest.mark.parametrize("prefix", ["", PREFIX, "diffusion_model.", "net.", "transformer.", "model.", "model.model."])
def test_a_single_file_with_and_without_prefix_and_other_parts(
    tmp_path: Path, prefix: str, others: tuple[str, ...]
) -> None:
    beside = {name: x for part in others for name, x in OTHERS[part].items()}
    path = saved(tmp_path / "all.safetensors", {prefix + name: x for name, x in flux().items()} | beside)
    component = opened(path)
    assert_same(made(component), flux())
    assert component.denoises
    assert component.conversion.cannot_run is not None
    assert ("left out: 2 tensors of text encoders" in notes(component)) == ("text encoders" in others)
    assert ("left out: 2 tensors of a VAE" in notes(component)) == ("a VAE" in others)
    assert ("left out: 6 tensors that the denoiser does" in notes(component)) == ("leftovers" in others)


def test_a_single_file_in_the_names_of_diffusers(tmp_path: Path) -> None:
    assert_same(made(opened(saved(tmp_path / "a.safetensors", state("flux-dev")))), flux())


def test_what_the_family_leaves_out_is_told(tmp_path: Path) -> None:
    tensors = converted(TINY["cosmos2"].family, state("cosmos2"), "diffusers") | {"accum_iteration": torch.ones(1)}
    component = opened(saved(tmp_path / "a.safetensors", {f"net.{name}": x for name, x in tensors.items()}))
    assert "left out: 1 tensor that the denoiser does not compute with" in notes(component)


def test_the_other_suffix_of_safetensors(tmp_path: Path) -> None:
    assert_same(made(opened(saved(tmp_path / "flux.sft", flux()))), flux())


# Quantized before


def eight_bit(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    return (x / scale).to(torch.float8_e4m3fn)


def test_fp8_without_scales_stands_for_itself(tmp_path: Path) -> None:
    eight = {PREFIX + name: eight_bit(x) for name, x in flux().items()}
    component = opened(saved(tmp_path / "a.safetensors", eight | {"vae.x": torch.ones(2)}))
    assert_same(made(component), {name: eight_bit(x).float() for name, x in flux().items()})
    assert f"{len(eight)} weights were rounded to F8_E4M3 before" in notes(component)
    assert component.conversion.float_type == "BF16"


@pytest.mark.parametrize("scales", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_fp8_with_the_scales_of_comfyui(tmp_path: Path, scales: str, prefix: str, shape: tuple[int, ...]) -> None:
    of = {name: 0.5 + i for i, name in enumerate(flux()) if name.endswith((".qkv.weight", "linear1.weight"))}
    tensors = {prefix + name: eight_bit(x, of[name]) if name in of else x for name, x in flux().items()}
    for name, scale in of.items():
        module = prefix + name.removesuffix("weight")
        tensors |= {f"{module}{scales}": torch.full(shape, scale), f"{module}scale_input": torch.ones(())}
        tensors |= {f"{module}input_scale": torch.ones(()), f"{module}comfy_quant": torch.zeros(9, dtype=torch.uint8)}
    tensors[f"{prefix}scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    component = opened(saved(tmp_path / "a.safetensors", tensors))
    wanted = {name: eight_bit(x, of[name]).float() * of[name] if name in of else x for name, x in flux().items()}
    assert_same(made(component), wanted)
    assert f"{len(of)} weights were rounded to F8_E4M3 before" in notes(component)


INT8 = torch.zeros(4, 4, dtype=torch.int8)
BYTES = torch.zeros(8, 1, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("beside", "what"),
    [
        ({QKV: BYTES, f"{QKV}.absmax": BYTES[0], f"{QKV}.quant_state.bitsandbytes__nf4": BYTES[1]}, "bitsandbytes"),
        ({QKV.replace("weight", "qweight"): INT8, QKV.replace("weight", "wscales"): torch.ones(4)}, "nunchaku"),
        ({f"{QKV}._data": INT8, f"{QKV}._scale": torch.ones(4)}, "quanto"),
        ({QKV.replace("weight", "qweight"): torch.zeros(4, 4, dtype=torch.int32)}, "GPTQ or AWQ"),
        ({QKV: INT8}, "weights in I8"),
        ({QKV: BYTES}, "weights in U8"),
    ],
)
def test_weights_that_are_quantized_are_refused_by_name(tmp_path: Path, beside: Tensors, what: str) -> None:
    path = saved(tmp_path / "a.safetensors", flux() | beside)
    with pytest.raises(NotSupportedYet, match=what) as error:
        opened(path)
    assert "quantize the original" in str(error.value.hint)


@pytest.mark.parametrize(
    "names",
    [
        ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", "lora_unet_double_blocks_0_img_attn_proj.alpha"),
        ("transformer.transformer_blocks.0.attn.to_k.lora_A.weight", "transformer.x.lora_B.default.weight"),
        ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "diffusion_model.blocks.0.self_attn.q.lora_B.weight"),
        ("base_model.model.x.lora_A.weight", "base_model.model.x.lora_magnitude_vector"),
        ("unet.down_blocks.0.attn1.processor.to_q_lora.down.weight", "unet.mid.attn1.processor.to_q_lora.up.weight"),
        ("lora_te1_text_model_encoder.lora_up.weight", "lora_te1_text_model_encoder.dora_scale"),
        ("lycoris_x.lokr_w1", "lycoris_x.lokr_w2", "lycoris_x.alpha"),
        ("lora_unet_x.hada_w1_a", "lora_unet_x.hada_w1_b"),
        ("oft_unet_x.oft_blocks", "oft_unet_x.oft_diag"),
        ("diffusion_model.blocks.0.norm3.diff", "diffusion_model.blocks.0.norm3.diff_b"),
    ],
)
def test_an_adapter_is_told_apart(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = saved(tmp_path / "lora.safetensors", {name: torch.ones(2, 2) for name in names})
    with pytest.raises(NotSupportedYet, match="an adapter without its model") as error:
        opened(path)
    assert "fuse_lora()" in str(error.value.hint)


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        (OTHERS["a VAE"], "without a denoiser: it has a VAE only"),
        (OTHERS["a VAE"] | OTHERS["text encoders"], "it has text encoders and a VAE only"),
        ({"model.embed_tokens.weight": torch.ones(4, 4)}, "their names are of no known family"),
        ({}, "their names are of no known family"),
    ],
)
def test_a_file_without_a_denoiser(tmp_path: Path, tensors: Tensors, what: str) -> None:
    with pytest.raises(NotSupportedYet, match=what):
        opened(saved(tmp_path / "a.safetensors", tensors))


def test_an_unknown_denoiser_is_told_the_nearest_family(tmp_path: Path) -> None:
    names = {f"{name}.else" if name.startswith("single") else name: x for name, x in flux().items()}
    with pytest.raises(NotSupportedYet, match="nearest are those of flux in its original layout"):
        opened(saved(tmp_path / "a.safetensors", names))


# Pickles


class Code:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth"])
def test_a_pickle_is_refused_unless_it_is_allowed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"flux{suffix}"
    torch.save({"state_dict": {PREFIX + name: x for name, x in flux().items()}, "global_step": 7}, path)
    with pytest.raises(CheckpointError, match="is a pickle: such files can run code") as error:
        opened(path)
    assert "allow_pickle: true" in str(error.value.hint)
    component = opened(path, allow_pickle=True)
    assert_same(made(component), flux())
    assert "nothing but tensors was read" in notes(component)
    assert_same(made(pickle.loads(pickle.dumps(component))), flux())
    settings = [part for each in ("model.allow_pickle", "imatrix.skip") for part in ("--set", f"{each}=true")]
    store = ("--store", str(tmp_path / "store"))
    command = hubquant("plan", str(path), "--types", "Q8_0", "--no-eval", *settings, *store)
    assert command.code == 0, command.err


def test_a_pickle_of_the_older_format(tmp_path: Path) -> None:
    path = tmp_path / "flux.pt"
    torch.save({"model": flux()}, path, _use_new_zipfile_serialization=False)
    assert_same(made(opened(path, allow_pickle=True)), flux())


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.ckpt"
    torch.save({"state_dict": flux(), "callbacks": Code()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="cannot be read without running code"):
        opened(path, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04broken", b"\x80\x02}q\x00."])
def test_a_damaged_pickle_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(CheckpointError):
        opened(tmp_path / "bad.pt", allow_pickle=True)


# GGUF


def gguf(path: Path, tensors: Tensors, metadata: Metadata, type: str = "F16") -> Path:
    from hubquant.quants import quantize

    types = {name: type if x.dim() == 2 and x.shape[-1] % 32 == 0 else "F32" for name, x in tensors.items()}
    layout = plan_layout(metadata, [TensorEntry(name, tuple(x.shape), types[name]) for name, x in tensors.items()])
    with GGUFWriter(path, layout) as writer:
        for name, x in tensors.items():
            writer.write(name, quantize(x.reshape(-1, x.shape[-1]), types[name], None, "exact"))
        writer.finish()
    return path


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("architecture", ["flux", "pig", None])
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_gguf_file_with_metadata_or_without(
    tmp_path: Path, prefix: str, architecture: str | None, layout: str
) -> None:
    tensors = flux() if layout == "original" else state("flux-dev")
    named = {prefix + name: x for name, x in tensors.items()}
    others = {"vae.x": torch.ones(2, 2)} if prefix else {}
    metadata = {"general.architecture": string(architecture)} if architecture else {}
    if prefix:  # or our writer refuses the long names
        metadata["general.type"] = string("diffusion")
    component = opened(gguf(tmp_path / "a.gguf", named | others, metadata))
    assert component.denoises
    assert component.conversion.architecture == "flux"
    assert component.conversion.metadata["general.architecture"] == string("flux")
    assert component.conversion.metadata["general.type"] == string("diffusion")
    assert component.shapes == {name: tuple(x.shape) for name, x in named.items()}
    assert ("left out: 1 tensor beside the denoiser" in notes(component)) == bool(others)
    assert set(component.conversion.taps) <= component.shapes.keys()
    assert (
        prefix + (QKV if layout == "original" else "transformer_blocks.0.attn.to_q.weight") in component.conversion.taps
    )


def test_a_gguf_file_as_stable_diffusion_cpp_writes_it(tmp_path: Path) -> None:
    """No metadata at all, names that are longer than ggml's, and the VAE beside the denoiser."""
    tensors = {PREFIX + name: x.half() for name, x in flux().items()} | {"vae.x": torch.ones(4, 3, 3, 3).half()}
    head, data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 0), b""
    for name, x in tensors.items():
        sizes = struct.pack(f"<{x.dim()}Q", *reversed(x.shape))
        head += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", x.dim()) + sizes
        head += struct.pack("<IQ", 1, len(data))  # 1 is F16
        data += x.contiguous().numpy().tobytes().ljust(-(-x.nbytes // 32) * 32, b"\0")
    path = tmp_path / "a.gguf"
    path.write_bytes(head.ljust(-(-len(head) // 32) * 32, b"\0") + data)
    assert_same(made(opened(path)), {name: x for name, x in tensors.items() if name.startswith(PREFIX)})
    done = hubquant("quantize", str(path), "-t", "Q4_0", "-o", str(tmp_path / "out"), "--store", str(tmp_path / "s"))
    assert done.code == 0, done.err


def test_a_gguf_file_of_a_denoiser_is_quantized_again(tmp_path: Path) -> None:
    path = gguf(tmp_path / "a.gguf", flux(), {}, "Q8_0")
    arguments = ("quantize", str(path), "-t", "Q4_0", "-o", str(tmp_path / "out"), "--store", str(tmp_path / "store"))
    refused = hubquant(*arguments)
    assert (refused.code, "--allow-requantize" in refused.err) == (2, True)
    done = hubquant(*arguments, "--allow-requantize")
    assert done.code == 0, done.err
    [file] = (tmp_path / "out").glob("*.gguf")
    found = GGUFFile.open(file)
    assert found.metadata["general.architecture"].value == "flux"
    assert found.tensors.keys() == flux().keys()
    assert found.tensors[QKV].type == "Q4_0"
    assert json.loads(hubquant("inspect", str(file), "--json").out)["metadata"]["general.architecture"] == "flux"
    matrix = ImportanceMatrix({PREFIX + QKV: Entry(torch.ones(1, 32), torch.ones(1))}, (), 1, 1)
    assert opened(file).fitted(matrix).entries.keys() == {QKV}


def test_a_gguf_file_of_a_denoiser_that_nobody_knows(tmp_path: Path) -> None:
    path = gguf(tmp_path / "a.gguf", {"some.weight": torch.ones(4, 4)}, {"general.architecture": string("flux")})
    with pytest.raises(NotSupportedYet, match="their names are of no known family"):
        opened(path)


# Pipelines


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline("flux", tmp_path_factory.mktemp("pipeline") / "flux")


def copied(pipeline: Path, folder: Path) -> Path:
    return Path(shutil.copytree(pipeline, folder / "copy"))


def test_a_variant_is_read_where_there_is_nothing_else(tmp_path: Path, pipeline: Path) -> None:
    folder = copied(pipeline, tmp_path)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    half = {name: x.half() for name, x in load_file(weights).items()}
    save_file(half, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert "the variants fp16 are not read" in notes(opened(folder))
    weights.unlink()
    component = opened(folder)
    assert "the variant fp16 is read" in notes(component)
    assert component.conversion.float_type == "F16"


def test_what_paints_over_pictures_is_not_downloaded(tmp_path: Path, pipeline: Path) -> None:
    folder = copied(pipeline, tmp_path / "pipeline")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    shutil.copytree(folder / "vae", folder / "safety_checker")
    source = opened(folder).source
    assert isinstance(source, DenoiserSource)
    assert {name.partition("/")[0] for name in source.pipeline_files} == {
        path.parent.name for path in pipeline.glob("*/*.safetensors")
    }


def test_shards_and_what_is_missing_of_them(tmp_path: Path) -> None:
    pipe = make_pipeline("flux")
    pipe.transformer.save_pretrained(tmp_path / "transformer", max_shard_size="300KB")
    shards = sorted((tmp_path / "transformer").glob("*.safetensors"))
    assert len(shards) > 1
    component = opened(tmp_path / "transformer")
    whole = saved(tmp_path / "whole.safetensors", pipe.transformer.state_dict())
    assert_same(made(component), made(opened(whole)))
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=rf"1 of {len(shards)} weight files are missing: {shards[1].name}"):
        opened(tmp_path / "transformer")


def test_pickles_only(tmp_path: Path, pipeline: Path) -> None:
    folder = copied(pipeline, tmp_path)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    pickled = weights.with_suffix(".bin")
    torch.save(load_file(weights), pickled)
    weights.unlink()
    with pytest.raises(CheckpointError, match="transformer has pickled weights only") as error:
        opened(folder)
    assert "save_pretrained(DIR)" in str(error.value.hint)
    with pytest.raises(CheckpointError, match="is a pickle"):
        opened(pickled)
    assert opened(pickled, allow_pickle=True).denoises


def test_other_numbers_of_blocks_than_the_config_has(tmp_path: Path, pipeline: Path) -> None:
    folder = copied(pipeline, tmp_path)
    config = folder / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"num_single_layers": 1', '"num_single_layers": 2'))
    with pytest.raises(CheckpointError, match=r"has 1 blocks, and its config\.json 2: num_single_layers"):
        opened(folder)


@pytest.mark.parametrize(
    ("index", "error", "what"),
    [
        (
            {"_class_name": "StableCascadePipeline", "prior": ["diffusers", "X"]},
            NotSupportedYet,
            "and no transformer or",
        ),
        ({"_class_name": "FluxPipeline", "transformer": [None, None]}, NotSupportedYet, "has no components"),
        ({"transformer": ["diffusers", "FluxTransformer2DModel"]}, CheckpointError, "names no _class_name"),
        ({"_class_name": "FluxPipeline", "unet": ["diffusers", "X"]}, CheckpointError, "unet has no"),
    ],
)
def test_a_pipeline_that_has_no_denoiser(
    tmp_path: Path, pipeline: Path, index: dict[str, Any], error: type[HubquantError], what: str
) -> None:
    folder = copied(pipeline, tmp_path)
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(error, match=what):
        opened(folder)


def test_a_pipeline_of_an_unknown_family(tmp_path: Path, pipeline: Path) -> None:
    folder = copied(pipeline, tmp_path)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({f"new_{name}" if "norm" in name else name: x for name, x in load_file(weights).items()}, weights)
    with pytest.raises(NotSupportedYet, match="the nearest are those of flux in its diffusers layout"):
        opened(folder)


def test_a_component_that_is_no_denoiser(tmp_path: Path, pipeline: Path) -> None:
    with pytest.raises(UserError, match="vae cannot be quantized"):
        opened(pipeline, component="vae")
    with pytest.raises(NotSupportedYet, match="a denoiser with these tensors"):
        opened(copied(pipeline, tmp_path) / "vae")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        opened(tmp_path / "copy" / "tokenizer")


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    saved(tmp_path / "diffusion_pytorch_model.safetensors", flux())
    assert_same(made(opened(tmp_path)), flux())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_becomes_a_file_that_is_a_source_again(tmp_path: Path, family: str) -> None:
    folder, file = save_pipeline(family, tmp_path / family), tmp_path / "x.gguf"
    done = hubquant("convert", str(folder), "-o", str(file), "--type", "F32", "--store", str(tmp_path / "store"))
    assert done.code == 0, done.err
    source = opened(folder)
    assert_same(made(opened(file)), made(source))
    assert opened(file).conversion.architecture == source.conversion.architecture
    assert json.loads(hubquant("inspect", str(file), "--json").out)["metadata"]["general.type"] == "diffusion"


# The Hub


def test_a_pipeline_of_the_hub_is_opened_by_metadata_and_pulls_the_denoiser_only(
    hub: LocalHub, tmp_path: Path, pipeline: Path
) -> None:
    hub.add("org/flux", pipeline)
    component = open_component(ModelReference(id="org/flux"))
    local = opened(pipeline)
    weights = pipeline / "transformer" / "diffusion_pytorch_model.safetensors"
    assert component.shapes == local.shapes
    assert component.source.weight_files == ("transformer/diffusion_pytorch_model.safetensors",)
    assert component.source.download_bytes == weights.stat().st_size
    assert component.conversion.cannot_run is None
    files = []
    for model, out in (("org/flux", "hub"), (str(pipeline), "folder")):
        arguments = ("-t", "Q4_0", "-o", str(tmp_path / out), "--store", str(tmp_path / f"store-{out}"))
        done = hubquant("quantize", model, *arguments)
        assert done.code == 0, done.err
        [file] = (tmp_path / out).glob("*.gguf")
        files.append(GGUFFile.open(file))
    pulled = {entry.line.rsplit("/", 2)[-2] for entry in hub.requests(r"GET .*resolve.*\.safetensors")}
    assert pulled == {"transformer"}
    first, second = files
    assert first.tensors.keys() == second.tensors.keys()
    for name in first.tensors:
        assert torch.equal(first.data(name), second.data(name)), name


def test_a_file_within_a_repository_is_to_be_downloaded_first() -> None:
    with pytest.raises(UserError) as error:
        model_reference("https://huggingface.co/org/flux/blob/main/flux1-dev.safetensors")
    assert "hf download org/flux flux1-dev.safetensors" in str(error.value.hint)
    assert "name flux1-dev.safetensors" in str(error.value.hint)

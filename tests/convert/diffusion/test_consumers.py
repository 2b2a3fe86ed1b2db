"""Who loads which file, asked of the programs themselves: diffusers, and ComfyUI-GGUF where HUBQUANT_COMFYUI_GGUF names
the folder of a copy."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import hubquant
from hubquant.convert.diffusion.consumers import (
    COMFYUI_GGUF,
    CONSUMERS,
    DIFFUSERS,
    NAMES_OF_DIFFUSERS,
    ORIGINAL,
    PREFIXED,
    SDCPP,
    loaded_by,
    loading_note,
)
from hubquant.convert.diffusion.conversion import FileLayout, default_layout
from hubquant.convert.diffusion.recognise import FAMILIES, recognise
from hubquant.gguf_file import GGUFFile, GGUFWriter, TensorEntry, plan_layout
from hubquant.gguf_file.metadata import string
from hubquant.mix import assign
from hubquant.quants import dequantize, quantize
from tests.convert.diffusion.test_families import TINY, Tensors, converted, resized, shapes, state
from tests.convert.test_encoders import build as build_encoder
from tests.support.conversion import write_gguf
from tests.support.diffusion import save_pipeline

LAYOUTS = {"original": ORIGINAL, "prefixed": PREFIXED, "diffusers": NAMES_OF_DIFFUSERS}
OF_FAMILY = {tiny.family.name: name for name, tiny in TINY.items()}
# Whatever it stumbles over first. SingleFileComponentError is an Exception of its own.
REFUSED = r"label_emb|pos_embed|appear to be missing|diffusion_model|meta tensor|no attribute 'from_single_file'"


def write(path: Path, tensors: Tensors, types: Mapping[str, str], architecture: str) -> Path:
    kind = {"general.architecture": string(architecture), "general.type": string("diffusion")}
    layout = plan_layout(kind, [TensorEntry(name, tuple(x.shape), types[name]) for name, x in tensors.items()])
    with GGUFWriter(path, layout) as writer:
        for name, x in tensors.items():
            writer.write(name, quantize(x.reshape(-1, x.shape[-1]), types[name], torch.ones(x.shape[-1]), "exact"))
        writer.finish()
    return path


def written(path: Path, name: str, layout: FileLayout, ftype: str = "Q8_0") -> Path:
    """A tiny model's file; its source is taken to be in BF16."""
    tiny = TINY[name]
    found = state(name) if layout.names == "diffusers" else converted(tiny.family, state(name), "diffusers")
    tensors = {layout.prefix + tensor: x for tensor, x in found.items()}
    architecture = tiny.family.architecture
    types = assign(shapes(tensors), ftype, architecture, {}, has_imatrix=False, float_type="BF16")
    return write(path, tensors, types, architecture)


def values(path: Path) -> Tensors:
    """What a file holds, in floats."""
    file = GGUFFile.open(path)
    return {
        name: dequantize(file.data(name).reshape(-1, file.data(name).shape[-1]), entry.type, entry.shape[-1]).view(
            entry.shape
        )
        for name, entry in file.tensors.items()
    }


def from_single_file(path: Path, model: type[Any], config: Mapping[str, Any]) -> Tensors:
    from diffusers import GGUFQuantizationConfig
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    with torch.device("meta"):
        model(**config).save_config(path.parent)
    options = GGUFQuantizationConfig(compute_dtype=torch.float32)
    loaded = model.from_single_file(
        str(path), quantization_config=options, config=str(path.parent), torch_dtype=torch.float32
    )
    return {name: dequantize_gguf_tensor(x).float() for name, x in loaded.state_dict().items()}


def assert_equal(found: Tensors, wanted: Tensors) -> None:
    """But for the last bits: both programs compute in F16."""
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        assert float((found[name] - x).norm()) <= 2e-3 * float(x.norm()), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", OF_FAMILY)
def test_diffusers_loads_what_the_table_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, layout: str
) -> None:
    import diffusers
    from diffusers.loaders import single_file_model, single_file_utils

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = OF_FAMILY[family]
    tiny = TINY[name]
    if tiny.sizes:  # those of the published models are constants there
        code = resized(getattr(single_file_utils, tiny.function).__code__, tiny.sizes)
        entry = single_file_model.SINGLE_FILE_LOADABLE_CLASSES[tiny.model]
        monkeypatch.setitem(entry, "checkpoint_mapping_fn", FunctionType(code, vars(single_file_utils)))
    path = written(tmp_path / "model.gguf", name, LAYOUTS[layout])
    model = getattr(diffusers, tiny.model)
    if DIFFUSERS.refusal(family, LAYOUTS[layout], ["Q8_0"]):
        with pytest.raises(Exception, match=REFUSED):
            from_single_file(path, model, tiny.config)
        return
    held = {tensor.removeprefix(LAYOUTS[layout].prefix): x for tensor, x in values(path).items()}
    wanted = held if layout == "diffusers" else converted(tiny.family, held, "original")
    assert_equal(from_single_file(path, model, tiny.config), wanted)


@pytest.mark.parametrize("family", DIFFUSERS.one_size)
def test_diffusers_has_the_sizes_of_some_published_models_as_constants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    import diffusers

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = OF_FAMILY[family]
    assert TINY[name].sizes
    path = written(tmp_path / "model.gguf", name, ORIGINAL)
    tensor, rows = DIFFUSERS.one_size[family]
    held = {name: entry.shape for name, entry in GGUFFile.open(path).tensors.items()}
    wanted = f"knows these names only of a {family} as large as the published one"
    assert DIFFUSERS.refusal(family, ORIGINAL, ["Q8_0"], held) == wanted
    assert wanted in loading_note("Q8_0", family, ORIGINAL, ["Q8_0"], held)
    assert DIFFUSERS not in loaded_by(family, ORIGINAL, ["Q8_0"], held)
    with pytest.raises(RuntimeError, match="split_with_sizes"):
        from_single_file(path, getattr(diffusers, TINY[name].model), TINY[name].config)
    assert DIFFUSERS.refusal(family, ORIGINAL, ["Q8_0"], held | {tensor: (rows, 3072)}) is None
    assert DIFFUSERS.refusal(family, NAMES_OF_DIFFUSERS, ["Q8_0"], held) is None


WIDE = {"attention_head_dim": 128, "num_attention_heads": 2, "num_layers": 3, "joint_attention_dim": 16}
WIDE |= {"axes_dims_rope": (32, 48, 48)}


def wide() -> Tensors:
    """A Qwen-Image transformer whose rows all blocks divide."""
    from diffusers import QwenImageTransformer2DModel

    with torch.device("meta"):
        model = QwenImageTransformer2DModel(**WIDE)
    torch.manual_seed(0)
    return {name: torch.randn(x.shape) for name, x in model.state_dict().items()}


def with_types(tensors: Tensors, types: list[str]) -> dict[str, str]:
    """One weight of each type, all others in floats."""
    linear = [name for name, x in tensors.items() if name.startswith("transformer_blocks.") and x.shape == (256, 256)]
    linear += [name for name, x in tensors.items() if x.shape == (1024, 256)]
    return dict.fromkeys(tensors, "F32") | dict(zip(linear, types, strict=False))


def test_diffusers_computes_with_all_types_that_it_has(tmp_path: Path) -> None:
    from diffusers import QwenImageTransformer2DModel

    tensors = wide()
    types = with_types(tensors, sorted(DIFFUSERS.types))
    assert {*types.values()} == DIFFUSERS.types
    path = write(tmp_path / "model.gguf", tensors, types, "qwen_image")
    assert_equal(from_single_file(path, QwenImageTransformer2DModel, WIDE), values(path))


@pytest.mark.parametrize("type", ["IQ3_S", "MXFP4"])
def test_diffusers_refuses_other_types(tmp_path: Path, type: str) -> None:
    from diffusers import QwenImageTransformer2DModel

    assert DIFFUSERS.refusal("qwen_image", ORIGINAL, ["F32", type]) == f"has no {type}"
    tensors = wide()
    path = write(tmp_path / "model.gguf", tensors, with_types(tensors, [type]), "qwen_image")
    with pytest.raises(OSError, match="Unable to load weights") as error:
        from_single_file(path, QwenImageTransformer2DModel, WIDE)
    assert "which is unsupported" in str(error.value.__context__.__context__)  # type: ignore[union-attr]


class Anything(ModuleType):
    """A module of ComfyUI, of which loading needs only that names exist."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        parts = ("Linear", "Conv2d", "Embedding", "LayerNorm", "GroupNorm")
        return type(name, (torch.nn.Module,), dict.fromkeys(parts, torch.nn.Module))


@pytest.fixture
def comfyui(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """ComfyUI-GGUF's loader and its dequantization."""
    folder = os.environ.get("HUBQUANT_COMFYUI_GGUF")
    if not folder:
        pytest.skip("HUBQUANT_COMFYUI_GGUF names no copy of ComfyUI-GGUF")
    for name in ("comfy", "comfy.ops", "comfy.lora", "comfy.model_management", "comfy.sd", "comfy.utils"):
        module = Anything(name)
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            setattr(sys.modules["comfy"], name.partition(".")[2], module)
    package = ModuleType("comfyui_gguf")
    package.__path__ = [folder]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    yield importlib.import_module("comfyui_gguf.loader"), importlib.import_module("comfyui_gguf.dequant")
    for name in [name for name in sys.modules if name.startswith("comfyui_gguf.")]:
        del sys.modules[name]


def by_comfyui(path: Path, comfyui: tuple[Any, Any]) -> Tensors:
    loader, dequant = comfyui
    found = loader.gguf_sd_loader(str(path))
    return {name: dequant.dequantize_tensor(x, torch.float32).as_subclass(torch.Tensor) for name, x in found.items()}


@pytest.mark.parametrize("layout", ["original", "prefixed"])
@pytest.mark.parametrize("family", OF_FAMILY)
def test_comfyui_loads_what_the_table_says(tmp_path: Path, comfyui: tuple[Any, Any], family: str, layout: str) -> None:
    path = written(tmp_path / "model.gguf", OF_FAMILY[family], LAYOUTS[layout])
    if COMFYUI_GGUF.refusal(family, LAYOUTS[layout], ["Q8_0"]):
        with pytest.raises(ValueError, match="Unexpected architecture type"):
            by_comfyui(path, comfyui)
        return
    wanted = {name.removeprefix(LAYOUTS[layout].prefix): x for name, x in values(path).items()}
    assert_equal(by_comfyui(path, comfyui), wanted)


def test_comfyui_puts_weights_in_rows_back(tmp_path: Path, comfyui: tuple[Any, Any]) -> None:
    save_pipeline("sd15", tmp_path / "pipeline")
    skipped = {"imatrix.skip": True, "evaluate.skip": True, "publish.layout": "comfyui"}
    folders = {"out": tmp_path / "out", "store": tmp_path / "store"}
    hubquant.run(tmp_path / "pipeline", types=["Q8_0"], overrides=skipped, **folders)
    (path,) = folders["out"].glob("*.gguf")
    prefix = "comfy.gguf.orig_shape."
    metadata = GGUFFile.open(path).metadata
    shapes = {key.removeprefix(prefix): kv.value for key, kv in metadata.items() if key.startswith(prefix)}
    assert len(shapes) > 10
    assert_equal(
        by_comfyui(path, comfyui), {name: x.reshape(shapes.get(name, x.shape)) for name, x in values(path).items()}
    )


def test_comfyui_computes_with_all_types_that_it_has(tmp_path: Path, comfyui: tuple[Any, Any]) -> None:
    tensors = wide()
    types = with_types(tensors, sorted(COMFYUI_GGUF.types - {"NVFP4"}))  # which hubquant does not write
    path = write(tmp_path / "model.gguf", tensors, types, "qwen_image")
    assert {*types.values()} == COMFYUI_GGUF.types - {"NVFP4"}
    assert_equal(by_comfyui(path, comfyui), values(path))
    fast = {
        type.name
        for type in (*comfyui[1].dequantize_functions, *comfyui[1].TORCH_COMPATIBLE_QTYPES)
        if type is not None
    }
    assert fast == COMFYUI_GGUF.types - COMFYUI_GGUF.slowly


def test_every_family_is_in_the_table() -> None:
    names = {family.name for family in FAMILIES}
    for each in CONSUMERS:
        assert each.layouts.keys() | each.why_not.keys() <= names
    assert names == DIFFUSERS.layouts.keys() | DIFFUSERS.why_not.keys()
    assert DIFFUSERS.one_size.keys() == {tiny.family.name for tiny in TINY.values() if tiny.sizes}


@pytest.mark.parametrize("family", OF_FAMILY)
def test_no_layout_has_more_programs_than_the_default_one(family: str) -> None:
    programs = {layout: loaded_by(family, layout, ["Q4_K"]) for layout in LAYOUTS.values()}
    default = default_layout(recognise(shapes(state(OF_FAMILY[family]))))
    assert len(programs[default]) == max(map(len, programs.values()))
    assert programs[default] or family in DIFFUSERS.why_not


def test_the_plan_says_who_loads_a_file_and_why_others_do_not() -> None:
    assert loaded_by("flux", ORIGINAL, ["Q4_K", "Q5_K", "F32"]) == CONSUMERS
    assert loading_note("Q4_K_M", "flux", ORIGINAL, ["Q4_K", "F32"]) == (
        "Q4_K_M loads in diffusers, ComfyUI-GGUF and stable-diffusion.cpp"
    )
    assert loading_note("IQ3_S", "flux", PREFIXED, ["IQ3_S", "F32"]) == (
        "IQ3_S loads in ComfyUI-GGUF (slowly, for it decodes IQ3_S on the CPU) and stable-diffusion.cpp; "
        "diffusers has no IQ3_S"
    )
    assert loading_note("Q8_0", "sd", PREFIXED, ["Q8_0"]) == (
        "Q8_0 loads in diffusers and ComfyUI-GGUF; stable-diffusion.cpp wants a UNet's text encoders in the same file"
    )
    assert loading_note("Q8_0", "sana", ORIGINAL, ["Q8_0"]) == (
        "Q8_0 loads in no program known; diffusers does not know these names; ComfyUI-GGUF has no sana; "
        "stable-diffusion.cpp has no sana"
    )
    assert loaded_by("z_image", NAMES_OF_DIFFUSERS, ["Q8_0"]) == (DIFFUSERS,)
    assert loaded_by("sd3", ORIGINAL, ["Q1_0"]) == (SDCPP,)


@pytest.mark.parametrize("name", ["t5 with gates", "umt5"])
def test_comfyui_loads_text_encoders(tmp_path: Path, comfyui: tuple[Any, Any], name: str) -> None:
    folder, path = build_encoder(name, tmp_path / "model"), tmp_path / "model.gguf"
    write_gguf(folder, path, "F32")
    found = comfyui[0].gguf_clip_loader(str(path))
    assert_equal(
        {name: x.as_subclass(torch.Tensor) for name, x in found.items()}, load_file(folder / "model.safetensors")
    )

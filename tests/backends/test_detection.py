"""Which library quantized a model is told from its metadata; what contradicts itself or explains nothing is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubquant.backends.detection.detect import Detected, Metadata, detect
from hubquant.backends.detection.marker import MARKER, Marker, read_marker, write_marker
from hubquant.backends.detection.recognise import detect_file, detect_folder, detect_remote
from hubquant.backends.libraries.registry import library
from hubquant.checkpoint.headers import BITS, TensorInfo
from hubquant.errors import CheckpointError, GGUFError
from hubquant.hub.pull import resolve
from tests.support.gguf_bytes import U32, Tensor, file_bytes, value
from tests.support.localhub import ALICE, LocalHub

Tensors = dict[str, tuple[str, list[int]]]
Q, EMBED = "model.layers.0.self_attn.q_proj", "model.embed_tokens.weight"
PLAIN: Tensors = {f"{Q}.weight": ("BF16", [64, 64]), EMBED: ("BF16", [99, 64]), "model.norm.weight": ("F32", [64])}
NF4: Tensors = {
    f"{Q}.weight": ("U8", [2048, 1]),
    f"{Q}.weight.absmax": ("F32", [64]),
    f"{Q}.weight.quant_map": ("F32", [16]),
    f"{Q}.weight.quant_state.bitsandbytes__nf4": ("U8", [80]),
    EMBED: ("F32", [99, 64]),
}
INT8: Tensors = {
    f"{Q}.weight": ("I8", [64, 64]),
    f"{Q}.SCB": ("F32", [64]),
    f"{Q}.weight_format": ("U8", []),
    EMBED: ("F32", [99, 64]),
}
CODES: Tensors = {f"{Q}.weight": ("I8", [64, 64]), EMBED: ("F32", [99, 64])}
FP8: Tensors = {f"{Q}.weight": ("F8_E4M3", [64, 64]), f"{Q}.bias": ("F32", [64])}
GPTQ: Tensors = {
    f"{Q}.qweight": ("I32", [64 // 8, 128]),
    f"{Q}.qzeros": ("I32", [2, 128 // 8]),
    f"{Q}.scales": ("F16", [2, 128]),
    f"{Q}.g_idx": ("I32", [64]),
}
AWQ: Tensors = {
    f"{Q}.qweight": ("I32", [64, 128 // 8]),
    f"{Q}.qzeros": ("I32", [2, 128 // 8]),
    f"{Q}.scales": ("F16", [2, 128]),
}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def header(tensors: Tensors) -> dict[str, TensorInfo]:
    found, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * BITS[dtype] // 8
        found[name] = TensorInfo(name, dtype, tuple(shape), "model.safetensors", begin, end)
    return found


def save(folder: Path, tensors: Tensors, quantization: Any = None, file: str = "model.safetensors") -> Path:
    """A folder with zeros as its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    infos = header(tensors)
    table = {
        name: {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [info.begin, info.end]}
        for name, info in infos.items()
    }
    raw = json.dumps(table).encode()
    data = bytes(max((info.end for info in infos.values()), default=0))
    (folder / file).write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    config = {"model_type": "llama"} | ({} if quantization is None else {"quantization_config": quantization})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def found(tensors: Tensors, quantization: Any = None, **more: Any) -> Detected:
    config = {} if quantization is None else {"quantization_config": quantization}
    return detect(Metadata(header(tensors), config, **more))


Q8_0 = file_bytes(
    {"general.file_type": value(U32, b"\x07\0\0\0")}, [Tensor("blk.0.attn_q.weight", (32,), 8, bytes(34))]
)


@pytest.fixture(scope="module")
def saved(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By what they are: folders that the libraries wrote, through transformers where that can save them."""
    import torch
    from transformers import AutoModelForCausalLM

    folders = {}
    for name in ("bitsandbytes nf4-double", "bitsandbytes int8", "torchao int8wo", "sdnq uint4", "quanto qint8"):
        backend, type = name.split()
        configuration = library(backend).configuration(type, "transformers")
        model = AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=configuration, dtype=torch.float32)
        folders[name] = tmp_path_factory.mktemp(backend)
        if backend == "quanto":
            library(backend).save(model, type, folders[name], "transformers")
        else:
            model.save_pretrained(folders[name])
    nncf, model = library("nncf"), AutoModelForCausalLM.from_pretrained(tiny_llama)
    model = nncf.quantized(model, "int8_asym", inputs=[{"input_ids": torch.arange(32)[None]}])
    folders["nncf int8_asym"] = tmp_path_factory.mktemp("nncf")
    nncf.save(model, "int8_asym", folders["nncf int8_asym"], "transformers")
    write_marker(folders["nncf int8_asym"], Marker(backend="nncf", type="int8_asym", versions={"nncf": "3.4.0"}))
    return folders


@pytest.mark.slow
def test_folders_that_libraries_saved(saved: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in saved.items():
        [told] = detect_folder(folder)
        assert (str(told), told.problem) == (name, None)
        told.check()
        [evidence] = [each for each in told.evidence if each.startswith("14 weights are stored as ")] or [""]
        assert evidence.startswith(f"14 weights are stored as {told.backend}") or told.backend == "nncf", told

        bare = tmp_path / "bare"  # without what says so
        shutil.copytree(folder, bare)
        config = json.loads((bare / "config.json").read_text())
        config.pop("quantization_config", None)
        (bare / "config.json").write_text(json.dumps(config))
        for file in (MARKER, "quanto_qmap.json"):
            (bare / file).unlink(missing_ok=True)
        [alone] = detect_folder(bare)
        assert alone.backend == told.backend
        with pytest.raises(CheckpointError, match="codes would be taken for weights"):
            alone.check()
        shutil.rmtree(bare)


@pytest.mark.parametrize(
    ("tensors", "quantization", "expected"),
    [
        (GPTQ, {"quant_method": "gptq", "bits": 4}, "gptq int4"),
        (AWQ, {"quant_method": "awq", "bits": 4, "version": "gemm"}, "awq int4"),
        (NF4, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes nf4"),
        (NF4, BNB | {"bnb_4bit_use_double_quant": True}, "bitsandbytes nf4-double"),
        (INT8, {"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes int8"),
        (
            {f"{Q}.weight_packed": ("I32", [64, 8]), f"{Q}.weight_scale": ("BF16", [64, 1])},
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int"}}}},
            "compressed-tensors int4",
        ),
        (
            {f"{Q}.weight": ("I8", [64, 64]), f"{Q}.weight_scale": ("BF16", [64, 1])},
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}}}},
            "compressed-tensors int8",
        ),
        (FP8 | {f"{Q}.weight_scale_inv": ("F32", [1, 1])}, {"quant_method": "fp8"}, "fp8 float8_e4m3fn"),
        (
            {"experts.gate_up_proj_blocks": ("U8", [2, 64, 2, 16]), "experts.gate_up_proj_scales": ("U8", [2, 64, 2])},
            {"quant_method": "mxfp4"},
            "mxfp4 mxfp4",
        ),
        (
            {f"{Q}.weight": ("U32", [64, 8]), f"{Q}.scales": ("BF16", [64, 1])},
            {"bits": 4, "group_size": 64},
            "mlx int4",
        ),
        (
            {f"{Q}._weight_qdata": ("I8", [64, 64]), f"{Q}._weight_scale": ("F32", [64, 1])},
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}},
            "torchao int8wo",
        ),
        (
            {f"{Q}.weight._data._data": ("U8", [16, 128]), f"{Q}.weight._scale": ("F32", [32, 1])},
            {"quant_method": "quanto", "weights_dtype": "int4"},
            "quanto qint4",
        ),
        (
            {f"{Q}.weight": ("U8", [2048]), f"{Q}.scale": ("F32", [64, 2, 1])},
            {"quant_method": "sdnq", "weights_dtype": "uint4"},
            "sdnq uint4",
        ),
        ({"x.indices": ("U16", [64, 8])}, {"quant_method": "vptq"}, "vptq"),
    ],
)
def test_what_a_config_says_and_the_weights_are(tensors: Tensors, quantization: Any, expected: str) -> None:
    told = found(tensors, quantization)
    assert (str(told), told.problem) == (expected, None)
    assert told.evidence[0] == f"config.json says {expected}"


@pytest.mark.parametrize(
    ("tensors", "expected", "sign"),
    [
        (FP8 | {f"{Q}.scale_weight": ("F32", []), "scaled_fp8": ("F8_E4M3", [2])}, "comfy fp8", "scale_weight"),
        (FP8 | {"model.scaled_fp8": ("F8_E4M3", [2])}, "comfy fp8", "scaled_fp8"),
        (FP8 | {f"{Q}.comfy_quant": ("U8", [27]), f"{Q}.weight_scale": ("F32", [])}, "comfy fp8", "comfy_quant"),
        (FP8, "fp8", "without scales"),
        (FP8 | {f"{Q}.scale": ("F32", [2, 2])}, "fp8", "with scale"),
    ],
)
def test_fp8_explains_itself(tensors: Tensors, expected: str, sign: str) -> None:
    told = found(tensors)
    assert (told.backend, told.type, told.problem) == (expected, "float8_e4m3fn", None)
    assert told.evidence[0].startswith(f"1 weight is stored as {told}: F8_E4M3 ")
    assert sign in told.evidence[0]


def test_layouts_tell_methods_apart() -> None:
    double = NF4 | {f"{Q}.weight.nested_absmax": ("F32", [2])}
    told = {str(found(tensors)) for tensors in (GPTQ, AWQ, NF4, double)}
    assert told == {"gptq int4", "awq int4", "bitsandbytes nf4", "bitsandbytes nf4-double"}


def test_floats_are_not_quantized() -> None:
    buffers: Tensors = {
        "position_ids": ("I64", [1, 77]),
        "h.0.attn.bias": ("U8", [1, 1, 8, 8]),
        "x.mask": ("U8", [4, 4]),
        "x.relative_position_index": ("I64", [4, 4]),
        "bn.num_batches_tracked": ("I64", []),
    }
    told = found(PLAIN | buffers)
    assert (told.backend, told.type, told.quantized, told.problem) == (None, None, False, None)
    assert told.evidence == ("2 matrices are floats: BF16",)
    told.check()


@pytest.mark.parametrize(
    ("tensors", "quantization", "why"),
    [
        (PLAIN, BNB, "config.json says bitsandbytes nf4, and the weights are plain floats: BF16"),
        (INT8, BNB, "config.json says bitsandbytes nf4, and the weights are int8: I8 with SCB"),
        (GPTQ, BNB, "config.json says bitsandbytes nf4, and the weights are stored as gptq int4"),
        (CODES, BNB, "config.json says bitsandbytes nf4, which stores weights otherwise: these are I8 without scales"),
        (NF4, {"quant_method": "gptq", "bits": 4}, "config.json says gptq int4, and the weights are stored as bitsand"),
        (GPTQ, {"quant_method": "gptq", "bits": 8}, "config.json says gptq int8, and the weights are int4"),
        (PLAIN, {"quant_method": "fp8"}, "config.json says fp8 float8_e4m3fn, and the weights are plain floats: BF16"),
        (INT8, None, "neither config.json nor hubquant.json says so: codes would be taken for weights"),
        (GPTQ, None, "neither config.json nor hubquant.json says so: codes would be taken for weights"),
        (CODES, None, "I8 without scales, such as .*neither config.json nor hubquant.json says what they stand for"),
        ({f"{Q}.weight": ("U8", [2048, 1])}, None, "U8 without scales, such as "),
        ({"experts.gate_up_proj": ("I8", [2, 64, 64])}, None, "I8 without scales, such as experts.gate_up_proj"),
    ],
)
def test_contradictions_and_codes_are_refused(tensors: Tensors, quantization: Any, why: str) -> None:
    told = found(tensors, quantization)
    with pytest.raises(CheckpointError, match=why) as raised:
        told.check()
    assert raised.value.hint
    assert told.quantized


def test_marker(tmp_path: Path) -> None:
    marker = Marker(backend="nncf", type="int8_sym", versions={"nncf": "3.4.0"}, skipped=("lm_head",))
    write_marker(save(tmp_path, CODES), marker)
    assert read_marker(tmp_path) == marker
    [told] = detect_folder(tmp_path)
    assert (str(told), told.problem) == ("nncf int8_sym", None)
    assert told.evidence[0] == "hubquant.json says nncf int8_sym, written with nncf 3.4.0"
    [floats] = detect_folder(save(tmp_path, PLAIN))
    with pytest.raises(CheckpointError, match=r"hubquant\.json says nncf int8_sym, and the weights are plain floats"):
        floats.check()
    [both] = detect_folder(save(tmp_path, NF4, BNB))
    with pytest.raises(CheckpointError, match=r"and config.json says bitsandbytes nf4") as raised:
        both.check()
    assert str(raised.value.hint) == "remove what is wrong, in hubquant.json or in config.json"


def test_config_beside_config_json(tmp_path: Path) -> None:
    for file, table in (
        ("quantize_config.json", {"bits": 4, "group_size": 128, "desc_act": False}),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 128, "version": "GEMM"}),
        ("quantization_config.json", {"quant_method": "gptq", "bits": 4}),
    ):
        folder = save(tmp_path / file, GPTQ, file="gptq_model-4bit-128g.safetensors")
        (folder / file).write_text(json.dumps(table))
        [told] = detect_folder(folder)
        assert told.evidence[0] == f"{file} says {told}"
        assert (str(told), told.problem) == ("awq int4" if file.startswith("quant_") else "gptq int4", None)
    folder = save(tmp_path / "auto", GPTQ, {"quant_method": "auto-round", "bits": 4})
    (folder / "quantize_config.json").write_text('{"bits": 4}')
    [told] = detect_folder(folder)
    assert (str(told), told.problem) == ("auto-round int4", None)


@pytest.mark.parametrize(
    ("tensors", "name", "expected"),
    [
        (NF4, "flux1-dev-bnb-nf4-v2", ["nf4, and so do the contents", "bnb, and so do the contents"]),
        (NF4, "t5xxl_fp8_e4m3fn", ["fp8_e4m3fn, the contents say bitsandbytes nf4"]),
        (NF4, "Llama-4bit", ["4bit, and so do the contents"]),
        (PLAIN, "Llama-3.1-8B-qint8-v4", ["qint8, the contents say BF16"]),
        (PLAIN, "model-Q4_K_M.gguf", ["q4_k_m, the contents say BF16", "gguf, the contents say BF16"]),
        (FP8, "x-e4m3fn", ["e4m3fn, and so do the contents"]),
        (CODES, "print8bit-superawq-gptqish", []),
    ],
)
def test_names_are_hints(tensors: Tensors, name: str, expected: list[str]) -> None:
    told = found(tensors, names=(name,))
    assert {each for each in told.evidence if "the name" in each} == {f"the name says {each}" for each in expected}
    assert (told.backend, told.problem) == (found(tensors).backend, found(tensors).problem)


def test_gguf_is_told_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "m-Q4_K_M.gguf").write_bytes(Q8_0)
    [told] = detect_file(tmp_path / "m-Q4_K_M.gguf")
    assert (str(told), told.problem) == ("gguf Q8_0", None)
    assert "the name says q4_k_m, the contents say gguf Q8_0" in told.evidence
    assert detect_folder(tmp_path) == (told,)
    (tmp_path / "x.safetensors").write_bytes(Q8_0)
    assert str(detect_file(tmp_path / "x.safetensors")[0]) == "gguf Q8_0"
    [misnamed] = detect_folder(tmp_path)
    with pytest.raises(CheckpointError, match=r"x\.safetensors is a GGUF file"):
        misnamed.check()

    save(tmp_path / "folder", PLAIN)
    (tmp_path / "folder" / "model.safetensors").rename(tmp_path / "y.gguf")
    [floats] = detect_file(tmp_path / "y.gguf")
    assert "the name says gguf, the contents say BF16" in floats.evidence
    (tmp_path / "z.gguf").write_bytes(b"neither of the two")
    with pytest.raises(CheckpointError, match="does not begin with GGUF"):
        detect_file(tmp_path / "z.gguf")
    (tmp_path / "cut.gguf").write_bytes(Q8_0[:40])
    with pytest.raises(GGUFError):
        detect_file(tmp_path / "cut.gguf")


def pipeline(folder: Path) -> Path:
    index: dict[str, Any] = {
        "_class_name": "FluxPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    index |= {"transformer": ["diffusers", "FluxTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    index |= {"text_encoder": ["transformers", "T5EncoderModel"], "image_encoder": [None, None]}
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps(index))
    save(folder / "transformer", NF4, BNB, file="diffusion_pytorch_model.safetensors")
    save(folder / "vae", PLAIN, file="diffusion_pytorch_model.safetensors")
    save(folder / "text_encoder", CODES)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    return folder


def test_each_component_of_a_pipeline(tmp_path: Path) -> None:
    told = {each.component: each for each in detect_folder(pipeline(tmp_path / "flux"))}
    assert {name: str(each) for name, each in told.items()} == {
        "transformer": "bitsandbytes nf4",
        "vae": "not quantized",
        "text_encoder": "quantized, it is not known how",
    }
    with pytest.raises(CheckpointError, match=r"text_encoder of this pipeline cannot be loaded: 1 weight is I8"):
        told["text_encoder"].check()
    index = {"_class_name": "FluxPipeline", "../transformer": ["diffusers", "FluxTransformer2DModel"]}
    (tmp_path / "flux" / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="names a component"):
        detect_folder(tmp_path / "flux")


def test_several_files_are_several_models(tmp_path: Path) -> None:
    save(tmp_path, FP8, file="unet-fp8.safetensors")
    save(tmp_path, PLAIN, file="unet-00001-of-00002.safetensors")
    save(tmp_path, {"x.weight": ("F16", [4, 4])}, file="unet-00002-of-00002.safetensors")
    told = {each.component: each for each in detect_folder(tmp_path)}
    assert str(told["unet-fp8.safetensors"]) == "fp8 float8_e4m3fn"
    assert told["unet.safetensors"].evidence == ("3 matrices are floats: 2 BF16, 1 F16",)


def test_on_the_hub_headers_are_enough(hub: LocalHub, tmp_path: Path) -> None:
    save(tmp_path / "nf4", NF4, BNB)
    marked = save(tmp_path / "nncf", CODES, file="nncf.safetensors")
    write_marker(marked, Marker(backend="nncf", type="int8_sym", versions={}))
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "m-Q8_0.gguf").write_bytes(Q8_0)
    pipeline(tmp_path / "flux")
    for name in ("nf4", "nncf", "gguf", "flux"):
        hub.add(f"org/{name}", tmp_path / name)

    def on_the_hub(name: str) -> tuple[Detected, ...]:
        return detect_remote(resolve(f"org/{name}", token=ALICE))

    for name in ("nf4", "nncf", "flux"):
        assert on_the_hub(name) == detect_folder(tmp_path / name)
    [told] = on_the_hub("gguf")
    assert (str(told), told.component) == ("gguf", "m-Q8_0.gguf")
    assert told.evidence[-1] == "the name says gguf, and so do the contents"
    assert not [each for each in hub.requests("GET .*(safetensors|gguf)$") if "range" not in each.headers]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'"text"'),
        ("config.json", b"[" * 100_000),
        ("config.json", b'{"quantization_config": "nf4"}'),
        ("config.json", b'{"quantization_config": [1]}'),
        ("config.json", b'{"quantization_config": {"quant_method": {"a": 1}}}'),
        ("config.json", b'{"quantization_config": {"quant_method": "a\\u001b[31m"}}'),
        ("config.json", b'{"quantization_config": {"what": 1}}'),
        (MARKER, b"\xff"),
        (MARKER, b'{"backend": "nncf"}'),
        (MARKER, b'{"backend": "nncf", "type": 4, "versions": {}}'),
        (MARKER, b'{"backend": "nncf", "type": "int8_sym", "versions": {"nncf": 3}}'),
        ("quanto_qmap.json", b"[]"),
        ("quantization_config.json", b'{"quant_method": 3}'),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0notjson!"),
    ],
)
def test_files_of_strangers(tmp_path: Path, file: str, content: bytes) -> None:
    save(tmp_path, NF4, BNB)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError):
        detect_folder(tmp_path)


VALUES: tuple[Any, ...] = (
    *(None, True, 4, -1, 8.5, "", "nf4", "x" * 99, "\x1b[31m", [], [1], {}),
    *({"default": {"_type": 3}}, {"default": 3}, {"g": {"weights": 1}}, {"g": {"weights": {"num_bits": "4"}}}),
)
METHODS = ("bitsandbytes", "quanto", "torchao", "sdnq", "compressed-tensors", "gptq", "awq", "fp8", "mxfp4", "other")
KEYS = (
    *("load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "weights", "weights_dtype", "quant_type", "config_groups"),
    *("bits", "w_bit", "group_size", "quant_algo"),
)
tables = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=4)
methods = st.fixed_dictionaries({}, optional={"quant_method": st.sampled_from((*METHODS, *VALUES))})
quantizations = st.builds(lambda table, method: table | method, tables, methods)


@given(quantizations, quantizations, st.sampled_from([PLAIN, NF4, INT8, GPTQ, CODES, FP8]))
def test_whatever_a_config_says(one: Any, another: Any, tensors: Tensors) -> None:
    """A result or an error of ours, that tells what to do."""
    try:
        told = found(tensors, one, beside={"quantization_config.json": another})
    except CheckpointError as error:
        told = Detected(None, None, (), problem=str(error), hint=error.hint)
    assert (told.problem is None) == (told.hint is None)
    assert told.problem or all(each.isprintable() for each in told.evidence)

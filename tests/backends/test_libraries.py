"""bitsandbytes, torchao and SDNQ: models that transformers and diffusers save and load by themselves."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BioGptConfig,
    BioGptForCausalLM,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
)

from hubquant.backends.libraries.layers import linear_layers
from hubquant.backends.libraries.library import LibraryBackend
from hubquant.backends.libraries.registry import library
from hubquant.errors import NotSupportedYet
from hubquant.models.tiny import build
from tests.support.flux import flux_inputs, save_flux

BACKENDS = ("bitsandbytes", "torchao", "sdnq")
FAST = ("bitsandbytes:nf4", "bitsandbytes:int8", "torchao:int8wo", "torchao:float8wo", "sdnq:uint4", "sdnq:int5")
ON_CPU = [f"{name}:{type}" for name in BACKENDS for type in library(name).types if type != "int4wo"]
ENTRIES = [pytest.param(entry, marks=[] if entry in FAST else pytest.mark.slow) for entry in ON_CPU]
MOMENTS = ("load", "after")
TEXT_WIDTH = 256  # of the tiny Flux

# Of what a layer answers, relative: about 1.9 * 2**-bits for integers of Gaussian weights. A broken one is off by 1.
LARGEST_ERROR = {
    **dict.fromkeys(("int8", "uint8", "int8wo", "int8dyn"), 0.015),
    **dict.fromkeys(("int7", "uint7"), 0.02),
    **dict.fromkeys(("int6", "uint6", "float8wo", "float8_e4m3fn", "float7_e3m3fn"), 0.04),
    **dict.fromkeys(("int5", "uint5", "float8_e5m2", "float6_e3m2fn", "float5_e2m2fn"), 0.08),
    **dict.fromkeys(("int4", "uint4", "nf4", "nf4-double", "fp4", "float4_e2m1fn"), 0.15),
    **dict.fromkeys(("int3", "uint3"), 0.3),
    **dict.fromkeys(("int2", "uint2"), 0.7),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows and columns that neither blocks of 64 nor 8 weights in whole bytes divide."""
    return build("llama", tmp_path_factory.mktemp("models") / "odd", hidden_size=260, intermediate_size=133)


def backend_and_type(entry: str) -> tuple[LibraryBackend, str]:
    name, _, type = entry.partition(":")
    return library(name), type


def quantized(entry: str, source: Path, moment: str, skip: tuple[str, ...] = (), **options: Any) -> Any:
    backend, type = backend_and_type(entry)
    if moment == "after":
        return backend.quantized(AutoModelForCausalLM.from_pretrained(source, **options).eval(), type, skip)
    configuration = backend.configuration(type, "transformers", skip)
    return AutoModelForCausalLM.from_pretrained(source, quantization_config=configuration, **options).eval()


def in_floats(model: nn.Module, backend: LibraryBackend) -> set[str]:
    return {n for n, one in model.named_modules() if isinstance(one, nn.Linear) and not backend.is_quantized(one)}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        answer: torch.Tensor = model(torch.arange(32)[None]).logits
    return answer


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    ones, others = first.state_dict(), second.state_dict()
    return ones.keys() == others.keys() and all(same(one, others[name]) for name, one in ones.items())


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if hasattr(one, "qdata"):  # of torchao
        return same(one.qdata, other.qdata) and same(one.scale, other.scale)
    return one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_layer_answers_nearly_what_it_did(entry: str, tiny_llama: Path) -> None:
    backend, type = backend_and_type(entry)
    floats = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model = quantized(entry, tiny_llama, "after")
    assert in_floats(model, backend) == {"lm_head"}
    torch.manual_seed(0)
    for name, layer in model.named_modules():
        if backend.is_quantized(layer):
            x = torch.randn(1, 8, layer.in_features)
            with torch.no_grad():
                wanted = floats.get_submodule(name)(x)
                error = (layer(x) - wanted).norm() / wanted.norm()
            assert 0 < error < LARGEST_ERROR[type]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_plain_transformers_loads_it_to_the_bit(entry: str, moment: str, tiny_llama: Path, tmp_path: Path) -> None:
    backend, type = backend_and_type(entry)
    model = quantized(entry, tiny_llama, moment, dtype=torch.bfloat16)
    backend.save(model, type, tmp_path, "transformers")
    files = {path.name for path in tmp_path.rglob("*")}
    assert files == {"config.json", "generation_config.json", "model.safetensors"}
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert same_weights(again, model)
    assert in_floats(again, backend) == {"lm_head"}
    ours = backend.load(tmp_path, AutoModelForCausalLM, "transformers", dtype=torch.bfloat16)
    assert same_weights(ours, model)
    assert not ours.training
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("entry", ["bitsandbytes:nf4", "bitsandbytes:int8", "torchao:int8wo", "sdnq:uint4"])
def test_weights_in_memory_are_quantized_as_those_of_a_folder(entry: str, tiny_llama: Path) -> None:
    backend, type = backend_and_type(entry)
    state = AutoModelForCausalLM.from_pretrained(tiny_llama).state_dict()
    given = {"config": AutoConfig.from_pretrained(tiny_llama), "state_dict": state, "dtype": torch.float32}
    configuration = backend.configuration(type, "transformers")
    model = LlamaForCausalLM.from_pretrained(None, quantization_config=configuration, **given)
    assert in_floats(model, backend) == {"lm_head"}
    assert same_weights(model, quantized(entry, tiny_llama, "load", dtype=torch.float32))


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("entry", ["bitsandbytes:nf4", "torchao:int8wo", "sdnq:uint4"])
def test_modules_are_skipped_by_a_part_of_their_name(entry: str, moment: str, tiny_llama: Path, tmp_path: Path) -> None:
    backend, type = backend_and_type(entry)
    model = quantized(entry, tiny_llama, moment, ("1.mlp.up", "k_pr"))
    left = {
        *("lm_head", "model.layers.1.mlp.up_proj"),
        *(f"model.layers.{index}.self_attn.k_proj" for index in range(2)),
    }
    assert in_floats(model, backend) == left
    backend.save(model, type, tmp_path, "transformers")
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert in_floats(again, backend) == left
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("entry", "left"),
    [
        ("bitsandbytes:nf4", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("bitsandbytes:int8", set()),
        ("torchao:int8dyn", set()),
        ("torchao:float8wo", set()),
        ("sdnq:int5", {"gate_proj", "up_proj", "down_proj"}),
        ("sdnq:int8", set()),
    ],
)
def test_what_a_type_cannot_divide_stays_in_floats(entry: str, left: set[str], odd: Path, tmp_path: Path) -> None:
    backend, type = backend_and_type(entry)
    layers = dict(linear_layers(AutoModelForCausalLM.from_pretrained(odd)))
    assert {n.rpartition(".")[2] for n, layer in layers.items() if not backend.fits(type, layer)} == left
    model = quantized(entry, odd, "after")
    assert {name.rpartition(".")[2] for name in in_floats(model, backend)} == left | {"lm_head"}
    backend.save(model, type, tmp_path, "transformers")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


def test_an_output_of_another_name_is_left_too(tmp_path: Path) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BioGptConfig(vocab_size=256, tie_word_embeddings=False, **sizes)
    BioGptForCausalLM._from_config(config).save_pretrained(tmp_path / "model")
    for entry in ("bitsandbytes:nf4", "torchao:int8wo", "sdnq:int8"):
        for moment in MOMENTS:
            model = quantized(entry, tmp_path / "model", moment, ("fc1",))
            left = in_floats(model, backend_and_type(entry)[0])
            assert left == {"output_projection", "biogpt.layers.0.fc1"}


def test_what_a_model_keeps_in_float32_is_no_layer_to_quantize() -> None:
    config = T5Config(vocab_size=64, d_model=64, d_kv=16, d_ff=128, num_layers=1, num_heads=4)
    names = {name.rpartition(".")[2] for name, _ in linear_layers(T5EncoderModel._from_config(config))}
    assert names == {"q", "k", "v", "o", "wi"}


def test_what_is_quantized_is_no_layer_to_quantize(tiny_llama: Path) -> None:
    for entry in ("bitsandbytes:nf4", "torchao:int8wo", "sdnq:uint4"):
        assert list(linear_layers(quantized(entry, tiny_llama, "after"))) == []


def test_sdnq_takes_each_type_with_the_bits_and_the_group_of_the_table() -> None:
    import sdnq.common

    backend = library("sdnq")
    for name, type in backend.types.items():
        assert backend.configuration(name, "transformers").weights_dtype == name
        assert sdnq.common.dtype_dict[name]["num_bits"] == type.bits
        layer = nn.Sequential(nn.Linear(2048, 32, bias=False))
        made = backend.quantized(layer, name)[0].sdnq_dequantizer
        assert made.group_size == type.group


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is what a machine without a GPU does")
def test_sdnq_compiles_nothing_on_a_cpu() -> None:
    library("sdnq").configuration("uint4", "transformers")
    import sdnq.common

    assert not sdnq.common.use_torch_compile
    assert "SDNQ_USE_TORCH_COMPILE" not in os.environ


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is what a machine without a GPU refuses")
def test_what_needs_a_gpu_says_what_needs_none(tiny_llama: Path, flux: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(NotSupportedYet, match="int4wo") as raised:
        quantized("torchao:int4wo", tiny_llama, "after")
    assert "sdnq:uint4" in str(raised.value.hint)
    backend = library("bitsandbytes")
    model = backend.quantized(flux(), "nf4")
    with pytest.raises(NotSupportedYet, match="without a GPU") as raised:
        backend.save(model, "nf4", tmp_path / "saved", "diffusers")
    assert "sdnq:uint4" in str(raised.value.hint)
    assert not (tmp_path / "saved").exists()


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    from diffusers import FluxTransformer2DModel

    folder = tmp_path_factory.mktemp("flux")
    save_flux(folder, TEXT_WIDTH, num_single_layers=2, attention_head_dim=128, axes_dims_rope=(32, 48, 48))

    def load(**options: Any) -> Any:
        return FluxTransformer2DModel.from_pretrained(folder, **options).eval()

    return load


def denoised(model: Any) -> torch.Tensor:
    # Weights that are mapped from a file start at any eighth byte, and MKL's sums depend on that.
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter:
            parameter.data = parameter.data.clone()
    torch.manual_seed(0)
    x, dtype = flux_inputs(TEXT_WIDTH), model.context_embedder.bias.dtype
    x |= {name: x[name].to(dtype) for name in ("hidden_states", "encoder_hidden_states", "pooled_projections")}
    with torch.no_grad():
        answer: torch.Tensor = model(**x).sample
    return answer.float()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("entry", ["torchao:int8wo", "torchao:int8dyn", "sdnq:int8", "sdnq:uint4"])
def test_plain_diffusers_loads_it_to_the_bit(
    entry: str, moment: str, dtype: torch.dtype, flux: Callable[..., Any], tmp_path: Path
) -> None:
    from diffusers import FluxTransformer2DModel

    backend, name = backend_and_type(entry)
    if moment == "load":
        made = flux(torch_dtype=dtype, quantization_config=backend.configuration(name, "diffusers", ("to_k",)))
    else:
        made = backend.quantized(flux(torch_dtype=dtype), name, ("to_k",))
    left = in_floats(made, backend)
    assert {"transformer_blocks.0.attn.to_k", "single_transformer_blocks.0.attn.to_k"} <= left
    assert "single_transformer_blocks.0.proj_out" not in left
    wanted, before = denoised(flux(torch_dtype=dtype)), denoised(made)
    assert 0 < (before - wanted).norm() / wanted.norm() < 0.03
    backend.save(made, name, tmp_path, "diffusers")
    assert {path.name for path in tmp_path.rglob("*")} == {"config.json", "diffusion_pytorch_model.safetensors"}
    again = FluxTransformer2DModel.from_pretrained(tmp_path, torch_dtype=dtype).eval()
    assert in_floats(again, backend) == left
    assert same_weights(again, made)
    assert torch.equal(denoised(again), before)


def test_scales_that_diffusers_would_round_are_not_saved(flux: Callable[..., Any], tmp_path: Path) -> None:
    backend = library("sdnq")
    model = backend.quantized(flux(torch_dtype=torch.bfloat16), "float8_e5m2")
    with pytest.raises(NotSupportedYet, match="float32") as raised:
        backend.save(model, "float8_e5m2", tmp_path / "saved", "diffusers")
    assert "sdnq:int8" in str(raised.value.hint)


def test_the_type_that_diffusers_casts_computes_the_same_each_time(flux: Callable[..., Any], tmp_path: Path) -> None:
    from diffusers import FluxTransformer2DModel

    backend = library("sdnq")
    made = backend.quantized(flux(), "float8_e5m2")
    before = denoised(made)
    backend.save(made, "float8_e5m2", tmp_path, "diffusers")
    again = backend.load(tmp_path, FluxTransformer2DModel, "diffusers", torch_dtype=torch.float32)
    for _ in range(2):
        assert torch.equal(denoised(again), before)


ALONE = """
import sys, torch, transformers
from safetensors.torch import load_file
for folder in sys.argv[1:]:
    if folder.endswith("sdnq"):
        import sdnq
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        found = model(torch.arange(32)[None]).logits
    assert torch.equal(found, load_file(folder + ".safetensors")["logits"]), folder
assert "hubquant" not in sys.modules
"""


@pytest.mark.slow
def test_another_process_loads_them_without_hubquant(tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folders = []
    for entry in ("bitsandbytes:nf4-double", "bitsandbytes:int8", "torchao:int8wo", "sdnq:uint4"):
        backend, type = backend_and_type(entry)
        model = quantized(entry, tiny_llama, "after")
        folders.append(str(tmp_path / f"{type}-{backend.name}"))
        backend.save(model, type, Path(folders[-1]), "transformers")
        save_file({"logits": logits(model)}, f"{folders[-1]}.safetensors")
    environment = os.environ | {"SDNQ_USE_TORCH_COMPILE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *folders], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("entry", ["bitsandbytes:int8", "torchao:int8wo", "sdnq:uint4"])
def test_a_config_names_what_is_in_floats(entry: str, tiny_llama: Path, tmp_path: Path) -> None:
    backend, type = backend_and_type(entry)
    names = []
    for moment in MOMENTS:
        model = quantized(entry, tiny_llama, moment, ("v_proj",))
        backend.save(model, type, tmp_path / moment, "transformers")
        said = json.loads((tmp_path / moment / "config.json").read_text())["quantization_config"]
        left = said.get("modules_to_not_convert", said.get("llm_int8_skip_modules"))
        names.append([name.removesuffix(".weight") for name in left])
    assert names[0] == names[1]
    assert names[0] == ["model.layers.0.self_attn.v_proj", "model.layers.1.self_attn.v_proj", names[0][-1]]
    assert names[0][-1] in ("lm_head", "^lm_head$")

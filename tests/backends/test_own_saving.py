"""Folders that hubquant writes because the frameworks do not: plain libraries read them, bit by bit."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from hubquant.backends.libraries import quanto
from hubquant.backends.libraries.library import LibraryBackend
from hubquant.backends.libraries.nncf import Nncf
from hubquant.backends.libraries.quanto import Quanto
from hubquant.errors import UserError
from hubquant.models.tiny import build
from tests.support.flux import flux_inputs, save_flux

IDS = {"input_ids": torch.arange(32)[None]}
ROUNDING = 1e-6
"""Of layers in floats: a product of matrices depends on where in memory they begin."""
TEXT_WIDTH = 96  # of the tiny Flux
WITHOUT = ("layers.1.mlp.up_proj", "q_proj")


pytestmark = pytest.mark.slow  # qint4 compiles, and nncf traces


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a width that no group divides, tied embeddings and settings for generation."""
    from transformers import GenerationConfig

    sizes: dict[str, Any] = {"intermediate_size": 528, "initializer_range": 0.02, "tie_word_embeddings": True}
    folder = build("llama", tmp_path_factory.mktemp("models") / "llama", **sizes)
    GenerationConfig(max_new_tokens=7).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose scales AWQ keeps apart from the weights."""
    sizes: dict[str, Any] = {"head_dim": ..., "num_key_value_heads": ..., "initializer_range": 0.02}
    return build("gpt_neox", tmp_path_factory.mktemp("models") / "neox", **sizes)


def loaded(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**IDS).logits
    return found


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """1.4 is that of something else."""
    return float((found - wanted).float().norm() / wanted.float().norm())


def plain_nncf(folder: Path) -> Any:
    """What the documentation of the class tells to type."""
    names: dict[str, Any] = {"folder": str(folder)}
    exec(dedent((Nncf.__doc__ or "").split("::\n")[1]), names)
    return names["model"]


def plain_quanto(folder: Path) -> Any:
    from optimum.quanto import QuantizedModelForCausalLM

    return QuantizedModelForCausalLM.from_pretrained(folder)


def kind_of(model: Any) -> Any:
    return next(each for each in type(model).__mro__ if each.__module__.startswith("transformers.models"))


@pytest.mark.parametrize(("type", "bound"), [("int8_sym", 0.03), ("int4_asym_awq", 0.2)])
def test_nncf(type: str, bound: float, llama: Path, tmp_path: Path) -> None:
    check_nncf(type, bound, llama, tmp_path)


@pytest.mark.parametrize(("type", "bound"), [("int8_asym", 0.03), ("int4_asym", 0.25), ("int4_sym", 0.3)])
def test_other_types_of_nncf(type: str, bound: float, llama: Path, tmp_path: Path) -> None:
    check_nncf(type, bound, llama, tmp_path)


def check_nncf(type: str, bound: float, llama: Path, tmp_path: Path) -> None:
    model = loaded(llama)
    before = logits(model)
    quantized = Nncf().quantized(model, type, inputs=[IDS, IDS])
    wanted = logits(quantized)
    assert error(wanted, before) < bound
    Nncf().save(quantized, type, tmp_path, "transformers")
    assert torch.equal(logits(plain_nncf(tmp_path)), wanted)
    again = Nncf().load(tmp_path, kind_of(model), "transformers")
    assert torch.equal(logits(again), wanted)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert again.generation_config.max_new_tokens == 7
    assert not again.training


def test_nncf_scales_beside_weights(wide: Path, tmp_path: Path) -> None:
    model = loaded(wide, dtype=torch.bfloat16)
    before = logits(model)
    quantized = Nncf().quantized(model, "int4_sym_awq", inputs=[IDS])
    wanted = logits(quantized)
    assert error(wanted, before) < 0.3
    assert any("pre_hooks" in name for name in quantized.state_dict())
    Nncf().save(quantized, "int4_sym_awq", tmp_path, "transformers")
    again = Nncf().load(tmp_path, kind_of(model), "transformers")
    assert again.dtype == torch.bfloat16
    assert torch.equal(logits(again), wanted)
    assert torch.equal(logits(plain_nncf(tmp_path)), wanted)


def test_transformers_takes_no_codes_of_nncf_for_weights(llama: Path, tmp_path: Path) -> None:
    Nncf().save(Nncf().quantized(loaded(llama), "int8_sym"), "int8_sym", tmp_path, "transformers")
    with pytest.raises(OSError, match="no file named"):
        loaded(tmp_path)


def test_calibration_needs_inputs(llama: Path) -> None:
    with pytest.raises(UserError, match="calibrated"):
        Nncf().quantized(loaded(llama), "int4_asym_awq")


@pytest.mark.parametrize(("backend", "type"), [(Nncf(), "int4_sym"), (Quanto(), "qint8")])
def test_skipped(backend: LibraryBackend, type: str, llama: Path, tmp_path: Path) -> None:
    model = loaded(llama)
    floats = {name: weight.clone() for name, weight in model.state_dict().items()}
    quantized = backend.quantized(model, type, skip=WITHOUT)
    layers = {name: layer for name, layer in quantized.named_modules() if isinstance(layer, torch.nn.Linear)}
    left = {name for name, layer in layers.items() if not backend.is_quantized(layer)}
    wanted = {f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)} | {"model.layers.1.mlp.up_proj"}
    assert left == wanted | ({"lm_head"} if backend.name == "quanto" else set())
    assert all(torch.equal(layers[name].weight, floats[f"{name}.weight"]) for name in left)
    backend.save(quantized, type, tmp_path, "transformers")
    again = backend.load(tmp_path, kind_of(model), "transformers")
    assert error(logits(again), logits(quantized)) < ROUNDING
    assert {name for name in layers if not backend.is_quantized(again.get_submodule(name))} == left


def test_nncf_leaves_what_is_shared_with_the_skipped(llama: Path) -> None:
    quantized = Nncf().quantized(loaded(llama), "int8_asym", skip=["lm_head"])
    assert not Nncf().is_quantized(quantized.model.embed_tokens)
    assert Nncf().is_quantized(quantized.model.layers[0].mlp.up_proj)


@pytest.mark.parametrize("type", ["qint8", "qfloat8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quanto(type: str, dtype: torch.dtype, llama: Path, tmp_path: Path) -> None:
    check_quanto(type, dtype, 0.08, llama, tmp_path)


@pytest.mark.parametrize(("type", "bound"), [("qint4", 0.3), ("qint2", 1.1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quanto_in_few_bits(type: str, dtype: torch.dtype, bound: float, llama: Path, tmp_path: Path) -> None:
    check_quanto(type, dtype, bound, llama, tmp_path)


def check_quanto(type: str, dtype: torch.dtype, bound: float, llama: Path, folder: Path) -> None:
    model = loaded(llama, dtype=dtype)
    before = logits(model)
    quantized = Quanto().quantized(model, type)
    wanted = logits(quantized)
    assert error(wanted, before) < bound
    Quanto().save(quantized, type, folder, "transformers")
    assert torch.equal(logits(plain_quanto(folder)), wanted)
    again = Quanto().load(folder, kind_of(model), "transformers")
    assert torch.equal(logits(again), wanted)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert again.generation_config.max_new_tokens == 7
    assert again.dtype == dtype
    assert not again.training


def test_transformers_makes_no_weights_up_for_quanto(llama: Path, tmp_path: Path) -> None:
    Quanto().save(Quanto().quantized(loaded(llama), "qint8"), "qint8", tmp_path, "transformers")
    with pytest.raises(ValueError, match="qint8"):
        loaded(tmp_path)


def test_quanto_while_loading(llama: Path, tmp_path: Path) -> None:
    model = loaded(llama, quantization_config=Quanto().configuration("qint8", "transformers", WITHOUT))
    assert torch.equal(logits(model), logits(Quanto().quantized(loaded(llama), "qint8", WITHOUT)))
    Quanto().save(model, "qint8", tmp_path, "transformers")
    assert torch.equal(logits(plain_quanto(tmp_path)), logits(model))


def test_quanto_in_another_dtype(llama: Path, tmp_path: Path) -> None:
    quantized = Quanto().quantized(loaded(llama), "qint8")
    Quanto().save(quantized, "qint8", tmp_path, "transformers")
    again = Quanto().load(tmp_path, kind_of(quantized), "transformers", dtype="bfloat16", device_map={"": "cpu"})
    assert logits(again).dtype == torch.bfloat16
    assert error(logits(again), logits(quantized)) < 0.02
    with pytest.raises(UserError, match="one device"):
        Quanto().load(tmp_path, kind_of(quantized), "transformers", device_map={"model": 0, "lm_head": "cpu"})


def test_nothing_left_to_quantize(llama: Path) -> None:
    with pytest.raises(UserError, match="no layer is left"):
        Quanto().quantized(loaded(llama), "qint8", skip=["proj"])


def test_no_compiler(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quanto, "_extension", lambda: tmp_path)  # where nothing was compiled
    assert "on its first use" in Quanto().notes("qint4")[0]
    assert not Quanto().notes("qint8")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="there is no compiler no-such-compiler"):
        Quanto().quantized(loaded(llama), "qint4")
    with pytest.raises(UserError, match="there is no compiler no-such-compiler"):
        Quanto().notes("qint4")


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("models") / "flux"
    save_flux(folder, TEXT_WIDTH, num_single_layers=1, attention_head_dim=64, axes_dims_rope=(16, 24, 24))
    return folder, flux_inputs(TEXT_WIDTH)


def picture(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**inputs).sample
    return found


@pytest.mark.parametrize(("backend", "type"), [(Quanto(), "qint8"), (Nncf(), "int8_asym"), (Nncf(), "int4_asym_awq")])
def test_diffusers(
    backend: LibraryBackend, type: str, denoiser: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    from diffusers import FluxTransformer2DModel

    source, inputs = denoiser
    model = FluxTransformer2DModel.from_pretrained(source)
    before = picture(model, inputs)
    quantized = backend.quantized(model, type, skip=["norm_out", "attn.to_q"], inputs=[inputs])
    wanted = picture(quantized, inputs)
    assert error(wanted, before) < (0.2 if "4" in type else 0.02)
    assert not backend.is_quantized(quantized.get_submodule("norm_out.linear"))
    assert backend.is_quantized(quantized.get_submodule("transformer_blocks.0.attn.to_k"))
    backend.save(quantized, type, tmp_path, "diffusers")
    again = backend.load(tmp_path, FluxTransformer2DModel, "diffusers")
    assert error(picture(again, inputs), wanted) < ROUNDING
    saved = quantized.state_dict()
    assert all(torch.equal(weight, saved.pop(name)) for name, weight in again.state_dict().items())
    assert not saved
    if backend.name == "quanto":
        assert error(picture(FluxTransformer2DModel.from_pretrained(tmp_path), inputs), wanted) < ROUNDING
    else:
        with pytest.raises(OSError, match="no file named"):
            FluxTransformer2DModel.from_pretrained(tmp_path)

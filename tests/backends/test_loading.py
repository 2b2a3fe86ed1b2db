"""hubquant.load: models that compute, quantized while they are loaded, after that, or already; and what is refused."""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hubquant
from hubquant.backends.detection.detect import Detected
from hubquant.backends.detection.marker import Marker, write_marker
from hubquant.backends.libraries.registry import named
from hubquant.backends.loading.asked import Asked, check_stored
from hubquant.backends.loading.offloading import offload_model
from hubquant.convert.restore import load_model
from hubquant.engine.progress import Silent
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet, UserError
from hubquant.models.tiny import build
from tests.support.diffusion import call_pipeline, save_pipeline
from tests.support.disks import mounted
from tests.support.localhub import LocalHub

QUANTIZED = [
    *(("bitsandbytes:nf4", "load"), ("torchao:int8wo", "load"), ("quanto:qint8", "after"), ("nncf:int8_asym", "after")),
]
REFUSED: list[tuple[dict[str, Any], type[HubquantError], str]] = [
    ({"quantize": "bitsandbytes:nf4", "offload": "sequential"}, NotSupportedYet, "choose offload none"),
    ({"quantize": "bitsandbytes:nf4", "offload": "balanced"}, NotSupportedYet, "choose sdnq:uint4, or offload none"),
    ({"quantize": "quanto:qint8", "offload": "balanced"}, NotSupportedYet, "choose sdnq:int8, or offload none"),
    ({"quantize": "quanto:qint8", "offload": "sequential"}, NotSupportedYet, "choose offload none"),
    ({"quantize": "torchao:int8wo", "offload": "disk"}, NotSupportedYet, "choose sdnq:int8, or offload none"),
    ({"quantize": "sdnq:int8", "offload": "cpu"}, UserError, "choose offload disk, or offload none"),
    ({"offload": "sequential"}, UserError, "choose offload disk, or offload none"),
    ({"quantize": "nncf:int8_sym"}, NotSupportedYet, "choose when after, or sdnq:int8"),
    ({"quantize": "nncf:int4_sym_awq", "when": "after"}, NotSupportedYet, "hubquant run MODEL --types nncf:int4_sym"),
    ({"quantize": "gguf:Q4_K_M"}, NotSupportedYet, "choose sdnq:uint4, or bitsandbytes:nf4"),
    ({"quantize": "quanto:qint9"}, UserError, "did you mean quanto:qint8"),
    ({"quantize": "qanto:qint8"}, UserError, "did you mean quanto"),
    ({"quantize": "sdnq:int8", "components": ["transformer"]}, UserError, "leave components out"),
    ({"skip_modules": ["q_proj"]}, UserError, "leave out what belongs to it"),
    ({"when": "before"}, UserError, "choose load, after"),
    ({"offload": "tape"}, UserError, "choose none, cpu"),
    ({"dtype": "int8"}, UserError, "choose float32"),
    ({"revision": "main"}, UserError, "leave revision out"),
]


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model can be made: what is refused has to be so before."""
    import transformers

    def made(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was made")

    monkeypatch.setattr(torch.nn.Module, "__init__", made)
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", made)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline("flux", tmp_path_factory.mktemp("flux"), width=256)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(32)[None]).logits
    return found


def drawn(pipe: Any) -> torch.Tensor:
    pictures: torch.Tensor = call_pipeline(pipe, "flux", ["a red cat"], [3])
    return pictures


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def saved(source: Path, entry: str, folder: Path) -> torch.Tensor:
    """What the model answers that is saved in ``folder``."""
    backend, type = named(entry)
    model = hubquant.load(source, entry, "load" if backend.quantizes_on_load else "after")
    backend.save(model, type, folder, "transformers")
    write_marker(folder, Marker(backend=backend.name, type=type, versions={}))
    return logits(model)


@pytest.mark.slow
def test_a_language_model(tiny_llama: Path) -> None:
    floats = logits(hubquant.load(tiny_llama))
    for entry, when in QUANTIZED:
        model = hubquant.load(tiny_llama, entry, when)  # type: ignore[arg-type]
        assert any(map(named(entry)[0].is_quantized, model.modules()))
        assert not model.training
        assert 0 < error(logits(model), floats) < (0.7 if "nf4" in entry else 0.1), entry
    model = hubquant.load(tiny_llama, "torchao:int8wo", skip_modules=["mlp"], dtype="bfloat16")
    layer, is_quantized = model.model.layers[1], named("torchao:int8wo")[0].is_quantized
    assert is_quantized(layer.self_attn.q_proj)
    assert not is_quantized(layer.mlp.up_proj)
    assert layer.mlp.up_proj.weight.dtype == torch.bfloat16


SAVED = ("quanto:qint8", "bitsandbytes:nf4", "bitsandbytes:int8", "torchao:int8wo", "sdnq:uint4", "nncf:int8_asym")


@pytest.mark.parametrize("entry", [SAVED[0], *(pytest.param(each, marks=pytest.mark.slow) for each in SAVED[1:])])
def test_what_is_quantized_already_is_loaded_as_it_is(entry: str, tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    wanted = saved(tiny_llama, entry, folder)
    model = hubquant.load(folder)
    assert any(map(named(entry)[0].is_quantized, model.modules()))
    assert torch.equal(logits(model), wanted)
    with pytest.raises(UserError, match="is quantized already") as raised:
        hubquant.load(folder, "sdnq:int8")
    assert f"it is {entry.replace(':', ' ')}" in str(raised.value.why)
    assert "leave quantize out" in str(raised.value.hint)


@pytest.mark.usefixtures("no_weights")
def test_what_cannot_be_is_refused_before_weights_are_read(tiny_llama: Path) -> None:
    for asked, kind, hint in REFUSED:
        with pytest.raises(kind) as raised:
            hubquant.load(tiny_llama, device="cpu", **asked)
        assert hint in str(raised.value.hint), asked


@pytest.mark.slow
def test_a_gguf_file(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    hubquant.convert(tiny_llama, out=file, type="Q8_0")
    wanted = logits(load_model(file))
    assert torch.equal(logits(hubquant.load(file)), wanted)
    assert torch.equal(logits(hubquant.load(tmp_path)), wanted)
    with pytest.raises(NotSupportedYet, match="gguf Q8_0") as raised:
        hubquant.load(file, offload="disk")
    assert "with quantize sdnq:uint4" in str(raised.value.hint)
    with pytest.raises(UserError, match="is quantized already"):
        hubquant.load(file, "quanto:qint8")
    # Of a file that is there, another type is no alternative.
    with pytest.raises(NotSupportedYet, match="gguf Q4_K_M with sequential offload") as raised:
        check_stored(Asked(None, "load", "sequential", "cuda"), "diffusers", Detected("gguf", "Q4_K_M", ()))
    assert raised.value.hint == "choose offload group, or offload cpu"


@pytest.mark.usefixtures("no_weights")
def test_weights_that_are_not_what_is_said_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    codes = Path(shutil.copytree(tiny_llama, tmp_path / "codes"))
    file = codes / "model.safetensors"
    weights = load_file(file)
    save_file({name: x.to(torch.int8) if "q_proj" in name else x for name, x in weights.items()}, file)
    wrong = Path(shutil.copytree(tiny_llama, tmp_path / "wrong"))
    config = json.loads((wrong / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (wrong / "config.json").write_text(json.dumps(config))
    for folder, why in ((codes, "codes"), (wrong, "plain floats")):
        for quantize in (None, "torchao:int8wo"):
            with pytest.raises(CheckpointError, match="cannot be loaded") as raised:
                hubquant.load(folder, quantize)
            assert why in str(raised.value.why)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [None, "sdnq:int8", "bitsandbytes:int8"])
def test_weights_on_the_disk_compute_the_same_and_go_with_the_model(
    entry: str | None, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = hubquant.load(tiny_llama, entry, offload="disk", device="cpu")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.equal(logits(model), logits(hubquant.load(tiny_llama, entry, device="cpu")))
    del model
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("no_weights")
def test_a_disk_without_room(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted(tmp_path / "small", "size=64k") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(UserError, match="no room for disk offload") as raised:
            hubquant.load(tiny_llama, "sdnq:int8", offload="disk", device="cpu")
    assert "65.5 kB are free" in str(raised.value.why)


@pytest.mark.slow
@pytest.mark.parametrize("offload", ["cpu", "sequential", "balanced", "group"])
@pytest.mark.parametrize("entry", [None, "sdnq:int8", "torchao:int8wo"])
def test_offloads_that_need_a_gpu_compute_the_same_on_a_cpu(offload: Any, entry: str | None, tiny_llama: Path) -> None:
    model = hubquant.load(tiny_llama, entry, device="cpu")
    wanted = logits(model)
    offload_model(model, offload, "cpu")
    assert torch.equal(logits(model), wanted)


@pytest.mark.slow
def test_a_pipeline_draws_with_a_quantized_denoiser(flux: Path) -> None:
    floats = drawn(hubquant.load(flux))
    for entry, when in (("torchao:int8wo", "load"), ("sdnq:int8", "after")):
        pipe = hubquant.load(flux, entry, when)  # type: ignore[arg-type]
        is_quantized = named(entry)[0].is_quantized
        assert any(map(is_quantized, pipe.transformer.modules()))
        assert not any(map(is_quantized, pipe.text_encoder_2.modules()))
        assert 0 < error(drawn(pipe), floats) < 0.02
    with pytest.raises(NotSupportedYet, match="bitsandbytes nf4 in diffusers while a model is loaded on cpu") as raised:
        hubquant.load(flux, "bitsandbytes:nf4", device="cpu")
    assert "when after" in str(raised.value.hint)
    with pytest.raises(UserError, match="no component scheduler"):
        hubquant.load(flux, "sdnq:int8", components=["scheduler"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "when"),
    [("bitsandbytes:nf4", "after"), ("quanto:qint8", "load"), ("quanto:qint8", "after"), ("nncf:int8_asym", "after")],
)
def test_a_pipeline_of_any_library(entry: str, when: Any, flux: Path) -> None:
    pipe = hubquant.load(flux, entry, when, device="cpu")
    assert any(map(named(entry)[0].is_quantized, pipe.transformer.modules()))
    assert 0 < error(drawn(pipe), drawn(hubquant.load(flux, device="cpu"))) < 0.1


@pytest.mark.slow
def test_components_of_both_frameworks(flux: Path) -> None:
    pipe = hubquant.load(flux, "torchao:int8wo", components=["text_encoder_2"], device="cpu")
    is_quantized = named("torchao:int8wo")[0].is_quantized
    assert any(map(is_quantized, pipe.text_encoder_2.modules()))
    assert not any(map(is_quantized, pipe.transformer.modules()))
    with pytest.raises(NotSupportedYet, match="in diffusers"):
        hubquant.load(flux, "bitsandbytes:nf4", components=["text_encoder_2", "transformer"], device="cpu")
    hubquant.load(flux, "bitsandbytes:nf4", components=["text_encoder_2"], device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["torchao:int8wo", "sdnq:int8", "quanto:qint8"])
def test_a_pipeline_that_is_quantized_already(entry: str, flux: Path, tmp_path: Path) -> None:
    (backend, type), folder = named(entry), Path(shutil.copytree(flux, tmp_path / "pipeline"))
    pipe = hubquant.load(flux, entry, device="cpu")
    wanted = drawn(pipe)
    shutil.rmtree(folder / "transformer")
    backend.save(pipe.transformer, type, folder / "transformer", "diffusers")
    again = hubquant.load(folder, device="cpu")
    assert any(map(backend.is_quantized, again.transformer.modules()))
    assert torch.equal(drawn(again), wanted)
    alone = hubquant.load(folder / "transformer", device="cpu")
    assert any(map(backend.is_quantized, alone.modules()))
    with pytest.raises(UserError, match=r"transformer of .* is quantized already"):
        hubquant.load(folder, "sdnq:int8", device="cpu")
    hubquant.load(folder, "sdnq:int8", components=["text_encoder_2"], device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("offload", ["disk", "balanced"])
def test_a_pipeline_whose_weights_are_elsewhere(offload: Any, flux: Path) -> None:
    wanted = drawn(hubquant.load(flux, "sdnq:int8", device="cpu"))
    found = drawn(hubquant.load(flux, "sdnq:int8", offload=offload, device="cpu"))
    assert error(found, wanted) < 1e-5  # a product of matrices depends on where in memory they begin


@pytest.mark.slow
def test_a_gguf_file_of_a_denoiser(tmp_path: Path) -> None:
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    source = save_pipeline("wan", tmp_path / "wan", width=256)
    [made] = hubquant.quantize(source, ["Q8_0"], out=tmp_path)
    with pytest.raises(UserError, match=r"no config.json beside"):
        hubquant.load(made.path)
    shutil.copy(source / "transformer" / "config.json", tmp_path)
    found = {name: dequantize_gguf_tensor(x).float() for name, x in hubquant.load(made.path).state_dict().items()}
    wanted = hubquant.load(source / "transformer").state_dict()
    assert found.keys() == wanted.keys()
    assert all(error(found[name], x) < 0.01 for name, x in wanted.items() if x.norm())
    with pytest.raises(NotSupportedYet, match="gguf Q8_0 with disk offload") as raised:
        hubquant.load(made.path, offload="disk", device="cpu")
    assert "offload none" in str(raised.value.hint)


@pytest.mark.slow
def test_layers_that_the_type_cannot_divide_stay_floats(tmp_path: Path) -> None:
    notes = []

    class Notes(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    odd = build("llama", tmp_path / "odd", hidden_size=260, intermediate_size=133)
    model = hubquant.load(odd, "sdnq:int5", progress=Notes())
    is_quantized = named("sdnq:int5")[0].is_quantized
    assert not any(map(is_quantized, model.model.layers[0].mlp.modules()))
    assert is_quantized(model.model.layers[0].self_attn.q_proj)
    assert notes[0].startswith("6 layers stay floats, as sdnq:int5 cannot divide their width")


@pytest.mark.slow
def test_from_the_hub(hub: LocalHub, tiny_llama: Path, flux: Path, tmp_path: Path) -> None:
    wanted = saved(tiny_llama, "quanto:qint8", tmp_path / "quanto")
    kept = saved(tiny_llama, "nncf:int8_asym", tmp_path / "nncf")
    folders = {"floats": tiny_llama, "quanto": tmp_path / "quanto", "nncf": tmp_path / "nncf", "flux": flux}
    for name, folder in folders.items():
        hub.add(f"org/{name}", folder)
    with pytest.raises(NotSupportedYet):
        hubquant.load("org/floats", "bitsandbytes:nf4", offload="balanced", device="cpu")
    assert not [each for each in hub.requests("GET .*safetensors$") if "range" not in each.headers]
    assert torch.equal(logits(hubquant.load("org/quanto")), wanted)
    assert torch.equal(logits(hubquant.load("org/nncf")), kept)
    assert torch.equal(logits(hubquant.load("org/floats")), logits(hubquant.load(tiny_llama)))
    assert torch.equal(drawn(hubquant.load("org/flux", "sdnq:int8")), drawn(hubquant.load(flux, "sdnq:int8")))

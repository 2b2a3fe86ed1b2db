"""Files of denoisers in diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import hubquant
from hubquant.errors import VerificationError
from hubquant.evaluate.pictures import Call, check_in_diffusers, predicted
from hubquant.gguf_file import GGUFFile
from tests.support.diffusion import TEXT, make_pipeline

KIND = "WanTransformer3DModel"  # whose first weights are in five dimensions


def call() -> Call:
    torch.manual_seed(0)
    given = {
        "hidden_states": torch.randn(1, 16, 2, 8, 8),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 7, TEXT),
    }
    return Call(0, torch.float32, (), given, None)


@pytest.fixture(scope="module")
def model() -> Any:
    return make_pipeline("wan").transformer


@pytest.fixture
def file(model: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "transformer")
    (made,) = hubquant.quantize(tmp_path / "transformer", "F16", out=tmp_path, store=tmp_path / "store", progress=False)
    return made.path


def check(file: Path, model: Any) -> Any:
    expected = predicted(model, call())
    return check_in_diffusers(file, KIND, file.parent, "transformer", call(), expected, "cpu")


def test_it_predicts_what_the_weights_do(file: Path, model: Any) -> None:
    import diffusers

    found = check(file, model)
    assert 0 < found.error < 2e-3  # the model's own weights are in float32
    assert found.version == diffusers.__version__


def test_a_tensor_in_the_wrong_place_is_noticed(file: Path, model: Any) -> None:
    opened = GGUFFile.open(file)
    first, second = ("blocks.0.cross_attn.q.weight", "blocks.0.self_attn.v.weight")
    one, other = (opened.data(name).numpy().tobytes() for name in (first, second))
    content = file.read_bytes()
    assert content.count(one) == content.count(other) == 1
    file.write_bytes(content.replace(one, b"\0" * len(one)).replace(other, one))
    with pytest.raises(VerificationError, match=r"does not predict in diffusers .* what its weights predict"):
        check(file, model)


def test_a_refusal_is_told(file: Path, model: Any) -> None:
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(VerificationError, match=rf"diffusers .* cannot use {file.name}") as error:
        check(file, model)
    assert error.value.why

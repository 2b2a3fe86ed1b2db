"""``hubquant detect`` and ``hubquant.detect``: what is found, and why, on one screen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hubquant
from hubquant.errors import CheckpointError, HubAccessError, UserError
from hubquant.recipe import ModelReference
from tests.backends.test_detection import BNB, CODES, NF4, PLAIN, pipeline, save
from tests.support.cli import hubquant as run
from tests.support.localhub import BOB, LocalHub

WEIGHT = "model.layers.0.self_attn.q_proj.weight"


def test_what_is_found_and_why(tmp_path: Path) -> None:
    outcome = run("detect", str(save(tmp_path / "llama-nf4", NF4, BNB)), "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        "bitsandbytes nf4",
        "  config.json says bitsandbytes nf4",
        f"  1 weight is stored as bitsandbytes nf4: U8 with quant_state.bitsandbytes__nf4, such as {WEIGHT}",
        "  1 matrix is floats: F32",
        "  the name says nf4, and so do the contents",
    ]


def test_what_may_not_be_loaded_is_said(tmp_path: Path) -> None:
    outcome = run("detect", str(save(tmp_path / "codes", CODES)))
    assert outcome.code == 0
    assert outcome.out.startswith("quantized, it is not known how\n")
    assert "  not to be loaded: 1 weight is I8 without scales, such as" in outcome.out
    assert "  next: make it anew of the model in floats" in outcome.out


def test_json_of_a_pipeline(tmp_path: Path) -> None:
    outcome = run("detect", str(pipeline(tmp_path / "flux")), "--json")
    told = json.loads(outcome.out)
    assert (told["quantized"], told["revision"]) == (True, None)
    assert {each["component"]: each["backend"] for each in told["components"]} == {
        "transformer": "bitsandbytes",
        "vae": None,
        "text_encoder": None,
    }
    assert [each["quantized"] for each in told["components"]] == [True, False, True]


def test_in_python(hub: LocalHub, tmp_path: Path) -> None:
    hub.add("org/nf4", save(tmp_path / "nf4", NF4, BNB))
    hub.add("org/leftover", save(tmp_path / "leftover", PLAIN, BNB))
    told = hubquant.detect("org/nf4")
    assert isinstance(told, hubquant.Detection)
    assert (told.model, told.revision, told.quantized) == ("org/nf4", hub.repository("org/nf4").head, True)
    assert str(told).startswith("bitsandbytes nf4\n  config.json says")
    told.check()
    with pytest.raises(CheckpointError, match="the weights are plain floats: BF16"):
        hubquant.detect("org/leftover", revision="main").check()
    assert not hubquant.detect(save(tmp_path / "plain", PLAIN)).quantized

    flux = str(pipeline(tmp_path / "flux"))
    [vae] = hubquant.detect(ModelReference(folder=flux, component="vae")).components
    assert (vae.component, vae.quantized) == ("vae", False)
    with pytest.raises(UserError, match="has no component unet") as raised:
        hubquant.detect(ModelReference(folder=flux, component="unet"))
    assert raised.value.hint == "it has transformer, vae, text_encoder"


def test_mistakes(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x02}q\x00.")
    hub.add("alice/secret", save(tmp_path / "secret", NF4, BNB), private=True)
    for name in ("empty", "x.ckpt", "nothing"):
        outcome = run("detect", str(tmp_path / name))
        assert (outcome.code, outcome.out) == (2, ""), name
        assert outcome.is_one_message()
        assert "  next: " in outcome.err
    with pytest.raises(HubAccessError):
        hubquant.detect("alice/secret", token=BOB)

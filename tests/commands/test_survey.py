"""What a survey tells is what a run would make, and it tells nobody what he may not see."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

import hubquant
from hubquant.commands.context_memory import context_memory
from hubquant.engine.store import Store
from hubquant.errors import HubAccessError, UserError
from hubquant.hub.pull import look_at
from hubquant.mix import FTYPES
from hubquant.pipeline.in_llamacpp import EvaluationInLlamaCpp
from hubquant.recipe import ModelReference
from tests.support.localhub import ALICE, BOB, LocalHub

MADE = ["Q8_0", "Q4_K_M", "Q2_K_S"]
FEW = {"calibration.chunks": 2, "evaluate.chunks": 2, "evaluate.chunk_size": 64, "evaluate.engine": "torch"}
ND = b"---\nlicense: cc-by-nc-nd-4.0\n---\n# No derivatives\n"


def test_a_survey_of_the_hub_foretells_a_run_and_remembers(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    hub.add("org/tiny", tiny_llama)
    found = hubquant.survey("org/tiny", token=ALICE)
    assert found.supported
    assert (found.model, found.revision) == ("org/tiny", hub.repository("org/tiny").head)
    assert (found.architecture, found.license.tag, found.license.derivatives) == ("llama", "apache-2.0", True)
    assert (found.gated, found.access, found.private) == (None, True, False)
    assert {each.name for each in found.types} == {*FTYPES}
    assert not [entry for entry in hub.requests("GET .*safetensors") if "range" not in entry.headers]
    weights = len((tiny_llama / "model.safetensors").read_bytes())
    assert found.weights_bytes == weights
    types = {each.name: each for each in found.types}
    assert types["Q2_K_S"].needs_imatrix
    assert not types["Q4_K_M"].needs_imatrix
    assert types["NVFP4"].size is None
    assert "NVFP4" in str(types["NVFP4"].unavailable)
    assert types["Q3_K_HIFI"].fork
    assert types["Q8_0"].making
    assert types["Q8_0"].making.seconds is None
    assert found.published
    assert (found.published.repository, found.published.commit) == ("alice/tiny-GGUF", None)

    hubquant.run("org/tiny", types=MADE, out=tmp_path / "out", push="alice/tiny-GGUF", overrides=FEW)
    sizes = {name: (tmp_path / "out" / f"tiny-{name}.gguf").stat().st_size for name in MADE}
    assert {name: types[name].size for name in MADE} == sizes

    Store().learn({EvaluationInLlamaCpp.kind: 1e-9})  # it was not asked for in this run
    hub.log.clear()
    again = hubquant.survey("org/tiny", token=ALICE)
    assert not hub.requests("org/tiny/resolve")
    assert [replace(each, making=None, advice=None) for each in again.types] == [
        replace(each, making=None, advice=None) for each in found.types
    ]
    assert again.published
    assert again.published.is_own
    assert again.published.revision == again.revision
    assert {file.type: file.size for file in again.published.files} == sizes
    now = {each.name: each for each in again.types}
    assert now["Q8_0"].advice == "not judged: 62 tokens are too few"
    assert now["Q6_K"].advice is None
    assert now["Q8_0"].making
    assert now["Q8_0"].making.seconds
    assert now["Q6_K"].making
    assert now["Q6_K"].making.seconds is None  # this machine has made none yet
    assert hubquant.survey("org/tiny", token=False).published is None
    assert json.loads(json.dumps(again.as_dict()))["types"][0]["name"] == "F32"
    shown = str(again)
    assert "published  alice/tiny-GGUF: " in shown
    assert "Q4_K_M" in shown


def test_what_fits_into_memory(tiny_llama: Path) -> None:
    found = hubquant.survey(tiny_llama)
    config = json.loads((tiny_llama / "config.json").read_text())
    heads, layers = config["num_key_value_heads"], config["num_hidden_layers"]
    assert found.context
    assert found.context.token_bytes == 2 * 2 * layers * heads * config["head_dim"]
    sizes = {each.name: each.size or 0 for each in found.types}
    cache = found.context.bytes(1024)
    assert found.memory("Q8_0", 1024) == sizes["Q8_0"] + cache
    fitting = [each.name for each in found.fits(sizes["Q6_K"] + cache, context=1024)]
    assert fitting[0] == "Q6_K"
    assert {*fitting} == {name for name, size in sizes.items() if 0 < size <= sizes["Q6_K"]}
    assert found.fits(1) == []
    with pytest.raises(UserError, match="Q9"):
        found.memory("Q9")
    assert context_memory("llama", {}) is None


def test_a_gated_model_is_told_of_and_not_opened(hub: LocalHub, tiny_llama: Path) -> None:
    hub.add("org/gated", tiny_llama, gated="manual")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", BOB)
        with pytest.raises(HubAccessError) as plan:
            hubquant.plan("org/gated")
    refused = hubquant.survey("org/gated", token=BOB)
    assert (refused.gated, refused.access, refused.types) == ("manual", False, ())
    assert (refused.unsupported, refused.hint) == (str(plan.value), plan.value.hint)
    assert refused.license.tag == "apache-2.0"
    hub.repository("org/gated").granted.add("bob")
    granted = hubquant.survey("org/gated", token=BOB)
    assert (granted.gated, granted.access) == ("manual", True)
    assert granted.supported
    hub.repository("org/gated").granted.clear()
    assert not hubquant.survey("org/gated", token=BOB).types  # although it is remembered
    assert "not logged in" in str(hubquant.survey("org/gated", token=False).unsupported)


def test_a_private_model_is_there_for_its_owner_alone(hub: LocalHub, tiny_llama: Path) -> None:
    hub.add("alice/secret", tiny_llama, private=True)
    mine = hubquant.survey("alice/secret", token=ALICE)
    assert mine.private
    for reference in ("alice/secret", f"alice/secret@{mine.revision}"):
        for token in (BOB, False):
            with pytest.raises(HubAccessError) as seen:
                hubquant.survey(reference, token=token)
            with pytest.raises(HubAccessError) as missing:
                hubquant.survey("alice/nothing", token=token)
            assert (str(seen.value), seen.value.hint) == (
                str(missing.value).replace("nothing", "secret"),
                missing.value.hint,
            )
    assert hubquant.survey("alice/secret", token=ALICE) == mine
    assert {found.id for found in hubquant.search("secret", token=ALICE)} == {"alice/secret"}
    assert hubquant.search("secret", token=BOB) == []


def test_no_token_leaves_the_process(hub: LocalHub, tiny_llama: Path) -> None:
    hub.add("alice/secret", tiny_llama, private=True)
    hub.log.clear()
    found = look_at("alice/secret", token=ALICE)
    assert ALICE not in repr(found)
    assert pickle.loads(pickle.dumps(found)).token is None
    hubquant.survey("alice/secret", token=ALICE)
    assert {entry.headers.get("authorization") for entry in hub.requests("alice/secret")} == {f"Bearer {ALICE}"}
    hub.log.clear()
    with pytest.raises(HubAccessError):
        hubquant.survey("alice/secret", token=False)
    assert {entry.headers.get("authorization") for entry in hub.requests()} == {None}


def test_what_cannot_be_converted_says_why(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    hub.add("org/pickled", {"config.json": (tiny_llama / "config.json").read_bytes(), "pytorch_model.bin": b"x"})
    hub.add("org/gguf", {"model-Q4_K_M.gguf": b"GGUF" + bytes(100)})
    other = json.loads((tiny_llama / "config.json").read_text()) | {"architectures": ["OtherForCausalLM"]}
    files = {path.name: path.read_bytes() for path in tiny_llama.iterdir() if path.is_file()}
    hub.add("org/other", files | {"config.json": json.dumps(other).encode(), "README.md": ND})
    for id in ("org/pickled", "org/gguf", "org/other"):
        with pytest.raises(UserError) as plan:
            hubquant.plan(id)
        found = hubquant.survey(id)
        assert (found.unsupported, found.hint, found.types) == (str(plan.value), plan.value.hint, ())
    assert not hubquant.survey("org/other").license.derivatives
    listed = {found.id: found for found in hubquant.search("org/")}
    assert {id: found.unsuitable for id, found in listed.items()} == {
        "org/pickled": "it has no weights in safetensors",
        "org/gguf": "it holds GGUF files already",
        "org/other": "OtherForCausalLM is not among the architectures that are converted",
    }
    assert listed["org/other"].license == "cc-by-nc-nd-4.0"
    assert len(hubquant.search("org/", limit=2)) == 2

    quantized = hubquant.quantize(tiny_llama, "Q4_K_M", out=tmp_path / "q.gguf")
    assert "quantized already" in str(hubquant.survey(quantized[0].path).unsupported)
    floats = hubquant.convert(tiny_llama, out=tmp_path / "f.gguf", type="F16")
    from_file = {each.name: each.size for each in hubquant.survey(floats.path).types}
    [made] = hubquant.quantize(floats.path, "Q4_0", out=tmp_path / "made.gguf")
    assert from_file["F16"] == floats.size
    assert abs((from_file["Q4_0"] or 0) - made.size) < 1000  # without the keys of a matrix
    with pytest.raises(UserError, match="no revisions"):
        hubquant.survey(floats.path, revision="main")
    with pytest.raises(UserError):
        hubquant.survey(ModelReference(folder=str(tmp_path / "nothing")))

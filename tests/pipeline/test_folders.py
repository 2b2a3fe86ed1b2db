"""Folders of libraries beside GGUF files: made, loaded again, measured, published, and refused where it must be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hubquant.backends.folder import QuantizedFolder, folder_plan
from hubquant.backends.libraries.library import Package
from hubquant.backends.probe import check_reloaded
from hubquant.engine.local import make
from hubquant.engine.progress import Silent
from hubquant.engine.store import Store
from hubquant.engine.task import Context
from hubquant.errors import NotSupportedYet, UserError, VerificationError
from hubquant.pipeline.work import open_model
from hubquant.recipe.schema import ModelReference
from tests.support.cli import hubquant
from tests.support.localhub import LocalHub

NF4, INT8 = "bitsandbytes-nf4", "torchao-int8wo"
SMALL = ["calibration.chunk_size=16", "calibration.chunks=2", "evaluate.chunk_size=64", "evaluate.chunks=2"]
SETTINGS = [part for setting in (*SMALL, "evaluate.engine=torch") for part in ("--set", setting)]


def rows(card: str) -> dict[str, str]:
    return {line.split(" | ")[1]: line for line in card.splitlines() if line.startswith("| [")}


@pytest.mark.slow
def test_one_run_of_several_formats_is_published_and_grows(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    hub.add("org/tiny", {path.name: path.read_bytes() for path in tiny_llama.iterdir()})
    types = "gguf:Q8_0,bitsandbytes:nf4"
    plan = hubquant("plan", "org/tiny", "--types", types, *SETTINGS, "--out", str(tmp_path / "a"))
    assert NF4 in plan.out, plan.err
    line = ["run", "org/tiny", *SETTINGS, "--push", "alice/tiny"]
    first = hubquant(*line, "--types", types, "--out", str(tmp_path / "a"))
    assert first.code == 0, first.err
    published = hub.repository("alice/tiny").files
    assert {"tiny-Q8_0.gguf", f"{NF4}/config.json", f"{NF4}/model.safetensors", f"{NF4}/tokenizer.json"} <= {*published}
    card = hub.content("alice/tiny", "README.md").decode()
    assert set(rows(card)) == {"Q8_0", "bitsandbytes:nf4"}
    assert f'--include "{NF4}/*"' in card
    assert f'AutoModelForCausalLM.from_pretrained("./{NF4}"' in card
    assert "bitsandbytes rounded without calibration data" in card
    config = json.loads(hub.content("alice/tiny", f"{NF4}/config.json"))
    assert config["quantization_config"]["bnb_4bit_quant_type"] == "nf4"

    second = hubquant(*line, "--types", "torchao:int8wo", "--out", str(tmp_path / "b"))
    assert second.code == 0, second.err
    card = hub.content("alice/tiny", "README.md").decode()
    assert set(rows(card)) == {"Q8_0", "bitsandbytes:nf4", "torchao:int8wo"}
    recipe = yaml.safe_load(hub.content("alice/tiny", "recipe.yaml"))
    assert set(recipe["quantize"]["types"]) == {"Q8_0", "bitsandbytes:nf4", "torchao:int8wo"}

    again = hubquant("plan", "org/tiny", "--types", types, *SETTINGS, "--out", str(tmp_path / "a"))
    assert "none, it is done" in again.out
    edited = tmp_path / "a" / NF4 / "config.json"
    edited.write_text("{}")
    refused = hubquant("run", "org/tiny", "--types", types, *SETTINGS, "--out", str(tmp_path / "a"))
    assert refused.code == 2
    assert "was changed since hubquant wrote it" in refused.err
    assert edited.read_text() == "{}"


@pytest.mark.slow
def test_formats_are_compared(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "formats.md"
    line = ["compare", str(tiny_llama), "--types", "Q4_0,torchao:int8wo,quanto:qint4", *SETTINGS, "-o", str(out)]
    found = hubquant(*line)
    assert found.code == 0, found.err
    for text in (found.out, out.read_text()):
        assert "Q4_0" in text
        assert "torchao:int8wo" in text
        assert "Tokens/s" in text
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    data = json.loads(hubquant(*line, "--json").out)
    by_type = {file["type"]: file for file in data["files"]}
    assert 0 < by_type["torchao:int8wo"]["divergence"]["kld"]["mean"] < by_type["Q4_0"]["divergence"]["kld"]["mean"]
    assert by_type["torchao:int8wo"]["speed"]["tokens_per_second"] > 0
    assert by_type["torchao:int8wo"]["library"]["difference"] == 0
    assert hubquant("compare", str(tiny_llama), "-o", str(tmp_path / "x.png")).code == 2


@pytest.mark.slow
def test_what_loads_as_something_else_is_refused(tiny_llama: Path, store: Path) -> None:
    component = open_model(ModelReference(folder=str(tiny_llama)), None, Silent())
    task = QuantizedFolder(component, folder_plan(component, "torchao:int8wo"), ("mlp.",))
    opened = Store()
    make([task], opened, Silent())
    context = Context(opened, Silent())
    facts, folder = task.facts(context), context.read(task)
    assert facts.n_layers > len(facts.left) > 0
    assert all("mlp." in name for name in facts.left)
    kept = opened.path(task)
    sound = check_reloaded(folder, "torchao", kept, "cpu")
    assert sound.difference == 0
    assert sound.layers
    assert sound.layers.n_layers == facts.n_layers - len(facts.left)
    assert 0.001 < sound.layers.error < 0.02

    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("norm.weight"))
    with safe_open(weights, "pt") as opened_file:
        metadata = opened_file.metadata()
    weights.unlink()
    save_file({**tensors, name: tensors[name] + torch.ones(())}, weights, metadata)
    with pytest.raises(VerificationError, match="is not what was saved"):
        check_reloaded(folder, "torchao", kept, "cpu")
    assert store.exists()


@pytest.mark.parametrize(
    ("types", "what"),
    [
        ("bitsandbites:nf4", "did you mean bitsandbytes:nf4?"),
        ("bitsandbytes:nf5", "did you mean bitsandbytes:nf4?"),
        ("quanto:qint9", "quanto has no type 'qint9'"),
        ("torchao:int4wo", "torchao"),
    ],
)
def test_mistakes_are_told_before_any_work(types: str, what: str, tiny_llama: Path, tmp_path: Path) -> None:
    outcome = hubquant("run", str(tiny_llama), "--types", types, *SETTINGS, "--out", str(tmp_path / "out"))
    assert outcome.code == 2
    assert what in outcome.err
    assert not (tmp_path / "out").exists()


def test_what_a_library_cannot_hold_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    assert hubquant("quantize", str(tiny_llama), "-t", "F16", "-o", str(tmp_path)).code == 0
    [file] = tmp_path.glob("*.gguf")
    component = open_model(ModelReference(file=str(file)), None, Silent())
    with pytest.raises(NotSupportedYet):
        folder_plan(component, "torchao:int8wo")
    streamed = [*SETTINGS, "--set", "evaluate.way=streamed", "--out", str(tmp_path / "out")]
    outcome = hubquant("run", str(tiny_llama), "--types", "torchao:int8wo", *streamed)
    assert outcome.code == 2
    assert "evaluate.way=stored" in outcome.err


def test_a_package_that_is_missing_or_too_old_is_told_with_the_command() -> None:
    with pytest.raises(UserError, match="is not installed") as missing:
        Package("hubquant-nothing", "1", "nothing").check()
    assert missing.value.hint == "pip install 'hubquant[nothing]'"
    with pytest.raises(UserError, match="is too old"):
        Package("torch", "999", "torch").check()

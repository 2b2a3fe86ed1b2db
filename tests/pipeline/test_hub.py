"""From a Hub repository to a Hub repository, with the real client over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hubquant.gguf_file import GGUFFile
from tests.support.cli import hubquant
from tests.support.hub_fixtures import Run
from tests.support.localhub import ALICE, LocalHub

SOURCE, TARGET = "org/tiny", "alice/tiny-GGUF"


@pytest.fixture
def source(hub: LocalHub, tiny_llama: Path) -> str:
    files = {path.name: path.read_bytes() for path in tiny_llama.iterdir()}
    hub.add(SOURCE, {**files, "pytorch_model.bin": b"\x80\x04K\x01.", "modeling_tiny.py": b"raise SystemExit"})
    return SOURCE


def published(hub: LocalHub) -> dict[str, bytes]:
    return {path: hub.content(TARGET, path) for path in hub.repository(TARGET).files}


def test_pull_quantize_push(hub: LocalHub, source: str, tmp_path: Path, small_settings: list[str]) -> None:
    out = tmp_path / "out"
    line = ["run", source, "--push", TARGET, "--out", str(out), *small_settings]
    planned = json.loads(hubquant("plan", *line[1:], "--json").out)
    assert not out.exists()
    assert not hub.requests("GET .*_cdn") or planned["download_bytes"] > 0

    outcome = hubquant(*line)
    assert outcome.code == 0, outcome.err
    files = published(hub)
    assert {"README.md", "recipe.yaml", "imatrix.gguf", "plot.png"} < files.keys()
    for file in planned["files"]:
        assert len(files[file["name"]]) == file["size"] == (out / file["name"]).stat().st_size
    assert {name: (out / name).read_bytes() for name in files if name != ".gitattributes"} == {
        name: content for name, content in files.items() if name != ".gitattributes"
    }
    assert not hub.requests(r"pytorch_model|modeling_tiny")

    card = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert card["base_model"] == SOURCE
    assert card["license"] == "apache-2.0"
    recipe = yaml.safe_load(files["recipe.yaml"])
    assert recipe["model"] == {"id": SOURCE, "revision": planned["revision"]}

    everything = [
        outcome.out.encode(),
        outcome.err.encode(),
        *(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()),
    ]
    assert not any(ALICE.encode() in content for content in everything)

    before = len(hub.log)
    again = hubquant(*line)
    assert again.code == 0, again.err
    assert not [call for call in hub.log[before:] if call.method == "PUT" or "/commit/" in call.path]


def test_a_published_recipe_gives_the_same_files(source: str, tmp_path: Path, small_settings: list[str]) -> None:
    assert hubquant("run", source, "--push", TARGET, "--out", str(tmp_path / "a"), *small_settings).code == 0
    outcome = hubquant("run", f"hub:{TARGET}", "--out", str(tmp_path / "b"))
    assert outcome.code == 0, outcome.err
    for name in ("tiny-Q8_0.gguf", "tiny-Q4_K_M.gguf", "imatrix.gguf", "plot.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    "part",
    [
        "model: {here}",
        "model: {{id: org/tiny}}\ncalibration: {{sources: [{{dataset: '{here}'}}]}}",
        "model: {{id: org/tiny}}\nevaluate: {{sources: [{{dataset: '{here}'}}]}}",
        "model: {{id: org/tiny}}\npublish: {{to: alice/precious-GGUF}}",
        "model: {{id: org/tiny}}\ncalibration: {{sources: [{{plugin: '{here}/p.py:Source', langs: [en]}}]}}",
        "model: {{id: org/tiny}}\nevaluate: {{sources: [{{plugin: '{here}/p.py:Source', langs: [en]}}]}}",
    ],
)
@pytest.mark.usefixtures("source")
def test_a_recipe_of_a_stranger_stays_on_the_hub(hub: LocalHub, tmp_path: Path, part: str) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "my private diary " * 60}))
    (tmp_path / "p.py").write_text("open(__file__ + '.ran', 'w')")
    hub.add("alice/precious-GGUF", {"README.md": b"# mine"})
    hub.add("evil/recipe", {"recipe.yaml": part.format(here=tmp_path).encode()})
    outcome = hubquant("run", "hub:evil/recipe", "--out", str(tmp_path / "out"))
    assert outcome.code == 2, outcome.err
    assert outcome.is_one_message(), outcome.err
    assert set(hub.repository("alice/precious-GGUF").files) == {"README.md"}
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "p.py.ran").exists()


def test_broken_transfers_are_continued(hub: LocalHub, source: str, tmp_path: Path, small_settings: list[str]) -> None:
    line = ["run", source, "--push", TARGET, "--out", str(tmp_path / "out"), *small_settings]
    hub.fail("PUT /_lfs", status=400, times=100)
    failed = hubquant(*line)
    assert failed.code == 2
    assert failed.is_one_message(), failed.err
    assert "README.md" not in hub.repository(TARGET).files
    hub.faults.clear()
    hub.fail("PUT /_lfs", status=503, times=1)
    outcome = hubquant(*line)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("done before") >= 4
    assert "README.md" in published(hub)


def test_a_given_imatrix_and_shards(source: str, tmp_path: Path, small_settings: list[str]) -> None:
    assert hubquant("run", source, "--push", TARGET, "--out", str(tmp_path / "a"), *small_settings).code == 0
    more = ["--set", f"imatrix.file=hub:{TARGET}/imatrix.gguf", "--set", "publish.shard_size=600KB"]
    outcome = hubquant("run", source, "--out", str(tmp_path / "b"), *small_settings, *more)
    assert outcome.code == 0, outcome.err
    shards = sorted(path.relative_to(tmp_path / "b").as_posix() for path in (tmp_path / "b" / "Q8_0").iterdir())
    assert shards[0] == f"Q8_0/tiny-Q8_0-00001-of-{len(shards):05d}.gguf"
    whole = GGUFFile.open(tmp_path / "a" / "tiny-Q8_0.gguf")
    split = GGUFFile.open(tmp_path / "b" / shards[0])
    assert all((whole.data(name) == split.data(name)).all() for name in whole.tensors)


def test_a_gate_keeps_a_file_from_being_published(
    hub: LocalHub, source: str, tmp_path: Path, small_settings: list[str]
) -> None:
    gate = ["--set", "gates.kld_mean={Q4_K_M: 0.0}"]
    outcome = hubquant("run", source, "--push", TARGET, "--out", str(tmp_path / "out"), *small_settings, *gate)
    assert outcome.code == 1
    assert "Q4_K_M is not published" in outcome.out
    assert "tiny-Q8_0.gguf" in published(hub)
    assert "tiny-Q4_K_M.gguf" not in published(hub)
    assert "Q4_K_M" not in published(hub)["README.md"].decode()


def test_without_a_network(run_python: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = run_python("-m", "hubquant", "run", SOURCE, "--out", str(out), HF_ENDPOINT="http://127.0.0.1:9")
    assert outcome.returncode == 1
    assert "Error: cannot reach" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not out.exists()


def test_publishing_a_finished_folder(hub: LocalHub, source: str, tmp_path: Path, small_settings: list[str]) -> None:
    out = tmp_path / "out"
    assert hubquant("run", source, "--out", str(out), *small_settings).code == 0
    outcome = hubquant("publish", str(out), "--to", TARGET, "--json")
    assert outcome.code == 0, outcome.err
    uploaded = json.loads(outcome.out)["uploaded"]
    assert set(uploaded) == published(hub).keys() - {".gitattributes"}
    assert not any(".hubquant" in name for name in uploaded)
    assert json.loads(hubquant("publish", str(out), "--to", TARGET, "--json").out)["uploaded"] == []
    empty = hubquant("publish", str(tmp_path), "--to", "bob/other")
    assert empty.code == 2
    assert empty.is_one_message(), empty.err

"""What lies in the output folder and is not hubquant's is neither touched nor published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hubquant.gguf_file import GGUFFile
from tests.support.cli import Outcome, hubquant
from tests.support.localhub import LocalHub

TARGET = "alice/tiny-GGUF"
QUICK = ["--set", "imatrix.skip=true", "--set", "evaluate.skip=true", "--types", "Q8_0"]


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(outcome: Outcome, what: str) -> bool:
    return outcome.code == 2 and outcome.is_one_message() and what in outcome.err


@pytest.fixture(scope="module")
def finished(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "tiny-GGUF"
    outcome = hubquant("run", str(tiny_llama), "--out", str(out), *QUICK)
    assert outcome.code == 0, outcome.err
    return out


def test_a_folder_of_the_user_is_refused_as_it_is(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("tiny-F16.gguf", "another-model.gguf", "sub/deep.gguf", "README.md"):
        shutil.copy(finished / "tiny-llama-Q8_0.gguf", tmp_path / name)
    before = everything(tmp_path)
    for command in ("plan", "run"):
        outcome = hubquant(command, str(tmp_path / "tiny-F16.gguf"), "--out", str(tmp_path), *QUICK)
        assert refused(outcome, "did not make"), outcome.err
    assert everything(tmp_path) == before


def test_only_what_hubquant_made_is_published(hub: LocalHub, finished: Path, tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "private").mkdir()
    (out / "private" / "id_rsa").write_text("PRIVATE KEY")
    (out / "notes.txt").write_text("my secret notes")
    (tmp_path / "elsewhere.txt").write_text("outside")
    (out / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    ours = {"README.md", "recipe.yaml", "measurements.json", "tiny-llama-Q8_0.gguf"}
    line = [str(tiny_llama), "--out", str(out), "--push", TARGET, *QUICK]
    planned = hubquant("plan", *line, "--json")
    assert set(json.loads(planned.out)["uploads"]) == ours
    assert json.loads(hubquant("publish", str(out), "--to", TARGET, "--dry-run", "--json").out)["uploads"] == [
        *sorted(ours)
    ]
    assert ("model", TARGET) not in hub.repositories
    for outcome in (hubquant("run", *line), hubquant("publish", str(out), "--to", TARGET)):
        assert outcome.code == 0, outcome.err
        assert "tiny-llama-Q8_0.gguf" in outcome.err
        assert set(hub.repository(TARGET).files) == ours | {".gitattributes"}
    assert (out / "private" / "id_rsa").read_text() == "PRIVATE KEY"


def test_only_the_folder_of_a_run_is_published(hub: LocalHub, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text("hf_secret")
    shutil.copy(finished / "tiny-llama-Q8_0.gguf", tmp_path)
    assert refused(hubquant("publish", str(tmp_path), "--to", TARGET), "did not make")
    (tmp_path / ".hubquant").mkdir()
    assert refused(hubquant("publish", str(tmp_path), "--to", TARGET), "nothing to publish")
    assert refused(hubquant("publish", str(tmp_path / "none"), "--to", TARGET), "there is no folder")
    assert not hub.repositories


def test_a_card_that_was_edited_is_published_but_not_written_anew(
    hub: LocalHub, finished: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    card = (out / "README.md").read_text() + "\nIn my own words.\n"
    (out / "README.md").write_text(card)
    assert refused(hubquant("run", str(tiny_llama), "--out", str(out), *QUICK), "README.md was changed")
    assert (out / "README.md").read_text() == card
    assert hubquant("publish", str(out), "--to", TARGET).code == 0
    assert hub.content(TARGET, "README.md").decode() == card


def test_folders_of_earlier_versions_go_on(finished: Path, tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / ".hubquant" / "manifest.json").unlink()
    (out / "notes.gguf").write_text("mine")
    outcome = hubquant("run", str(tiny_llama), "--out", str(out), *QUICK)
    assert outcome.code == 0, outcome.err
    assert "done before" in outcome.err
    assert "notes.gguf" in outcome.err
    assert GGUFFile.open(out / "tiny-llama-Q8_0.gguf").tensors
    assert (out / "notes.gguf").read_text() == "mine"

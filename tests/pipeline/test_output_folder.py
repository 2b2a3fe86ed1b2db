"""The output folder: only what hubquant made is replaced, removed and published."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from hubquant.errors import OutputError
from hubquant.pipeline.output_folder import OutputFolder


def made(root: Path, **contents: str) -> OutputFolder:
    folder = OutputFolder(root)
    for name, text in contents.items():
        folder.write(name, text.encode())
    return folder


def test_new_and_empty_folders_are_taken(tmp_path: Path) -> None:
    OutputFolder(tmp_path / "new").check(["README.md"])
    (tmp_path / ".DS_Store").write_bytes(b"")
    OutputFolder(tmp_path).check(["README.md"])


@pytest.mark.parametrize("name", ["a.gguf", "notes.txt", ".env", ".git/config", "sub/deep.gguf"])
def test_a_folder_with_anything_foreign_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match="did not make") as error:
        OutputFolder(tmp_path)
    assert name.split("/")[0] in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name.split("/")[0]]


def test_foreign_files_in_our_own_folder_are_left_alone(tmp_path: Path) -> None:
    made(tmp_path, **{"README.md": "card", "a.gguf": "GGUF"})
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.gguf").write_text("mine")
    (tmp_path / "elsewhere").symlink_to("/etc")
    folder = OutputFolder(tmp_path)
    assert folder.foreign() == ["elsewhere", "notes.txt", "sub/b.gguf"]
    assert set(folder.publishable()) == {"README.md", "a.gguf"}
    with pytest.raises(OutputError, match="is not hubquant's"):
        folder.check(["sub/b.gguf"])
    with pytest.raises(OutputError, match="is not hubquant's"):
        folder.write("notes.txt", b"ours")
    folder.remove("notes.txt")
    folder.remove("a.gguf")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "a.gguf").exists()


def test_what_somebody_changed_is_not_written_anew(tmp_path: Path) -> None:
    made(tmp_path, **{"README.md": "card", "a.gguf": "GGUF"})
    (tmp_path / "README.md").write_text("card, and what I have to say")
    (tmp_path / "a.gguf").write_text("FUGG")
    folder = OutputFolder(tmp_path)
    for name in ("README.md", "a.gguf"):
        with pytest.raises(OutputError, match="was changed since"):
            folder.check([name])
        folder.remove(name)
        assert (tmp_path / name).exists()


def test_an_edited_card_is_published_and_a_changed_file_is_not(tmp_path: Path) -> None:
    made(tmp_path, **{"README.md": "card", "a.gguf": "GGUF"})
    (tmp_path / "README.md").write_text("edited")
    assert set(OutputFolder(tmp_path).publishable()) == {"README.md", "a.gguf"}
    (tmp_path / "a.gguf").write_text("other")
    with pytest.raises(OutputError, match=r"a\.gguf was changed"):
        OutputFolder(tmp_path).publishable()


def test_a_copied_folder_is_still_known(tmp_path: Path) -> None:
    made(tmp_path / "a", **{"README.md": "card"})
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    os.utime(tmp_path / "b" / "README.md", (1, 1))
    OutputFolder(tmp_path / "b").check(["README.md"])


def test_a_kill_between_record_and_file_leaves_a_known_file(tmp_path: Path) -> None:
    folder = made(tmp_path, **{"README.md": "old"})
    with pytest.raises(RuntimeError), folder._replacing("README.md", folder._made["README.md"][0]):
        raise RuntimeError
    OutputFolder(tmp_path).check(["README.md"])


@pytest.mark.parametrize("where", ["Q8_0", "README.md", ".hubquant"])
def test_links_do_not_lead_out(tmp_path: Path, where: str) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    (outside / "a.gguf").write_text("mine")
    made(out, **{"recipe.yaml": "model: a/b"})
    if where == ".hubquant":
        shutil.move(out / where, outside / where)
    (out / where).symlink_to(outside / ("a.gguf" if where == "README.md" else where if where == ".hubquant" else ""))
    with pytest.raises(OutputError):
        OutputFolder(out).check(["README.md", "Q8_0/a.gguf"])
    with pytest.raises(OutputError):
        OutputFolder(out).write("README.md" if where == "README.md" else "Q8_0/a.gguf", b"x")
    assert (outside / "a.gguf").read_text() == "mine"


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/passwd", ".hubquant/lock", "a/../../outside.txt", "C:/x"])
def test_a_manifest_that_names_files_elsewhere_is_not_believed(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside.txt").write_text("mine")
    made(tmp_path / "out", **{"README.md": "card"})
    manifest = tmp_path / "out" / ".hubquant" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("README.md", name))
    assert list(OutputFolder(tmp_path / "out")) == []


def test_folders_of_earlier_versions_are_known_by_their_artifacts(tmp_path: Path) -> None:
    for kind, name in (("file", "a-Q8_0.gguf"), ("imatrix", "imatrix.gguf")):
        artifact = tmp_path / ".hubquant" / kind / "0123456789abcdef"
        artifact.mkdir(parents=True)
        (artifact / name).write_text(f"GGUF {name}")
        os.link(artifact / name, tmp_path / name)
    (tmp_path / "README.md").write_text("# a\n\nMade with hubquant 0.1.0.\nedited by hand")
    (tmp_path / "recipe.yaml").write_text("model: a/b")
    (tmp_path / "other.gguf").write_text("mine")
    folder = OutputFolder(tmp_path)
    assert list(folder) == ["README.md", "a-Q8_0.gguf", "imatrix.gguf", "recipe.yaml"]
    assert folder.foreign() == ["other.gguf"]
    folder.check(["README.md", "a-Q8_0.gguf", "imatrix.gguf", "recipe.yaml"])
    assert folder.write("recipe.yaml", b"model: a/b") is None
    kept = folder.write("README.md", b"new")
    assert kept is not None
    assert "edited by hand" in kept.read_text()
    assert (tmp_path / "README.md").read_text() == "new"
    assert set(OutputFolder(tmp_path).publishable()) == {"README.md", "a-Q8_0.gguf", "imatrix.gguf", "recipe.yaml"}
    folder.forget_earlier_state()
    assert [path.name for path in (tmp_path / ".hubquant").iterdir()] == ["manifest.json"]
    assert (tmp_path / "a-Q8_0.gguf").read_text() == "GGUF a-Q8_0.gguf"


def _hold(root: Path, held: Any, leave: Any) -> None:
    with OutputFolder(root).locked():
        held.set()
        leave.wait(30)


@pytest.mark.parametrize("killed", [False, True])
def test_one_process_writes_to_a_folder(killed: bool, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held, leave))
    process.start()
    try:
        assert held.wait(30)
        with pytest.raises(OutputError, match="in use"), OutputFolder(tmp_path).locked():
            pass
    finally:
        process.kill() if killed else leave.set()
        process.join(30)
    with OutputFolder(tmp_path).locked():
        pass


def test_placed_files_are_links_and_replace_what_was_there(tmp_path: Path) -> None:
    source, out = tmp_path / "a", tmp_path / "out"
    source.write_text("new")
    folder = made(out, b="old")
    folder.place(source, "b")
    assert (out / "b").read_text() == "new"
    assert os.stat(out / "b").st_ino == os.stat(source).st_ino
    assert sorted(path.name for path in out.iterdir()) == [".hubquant", "b"]


def test_a_file_of_nobody_knows_whom_is_not_an_earlier_version_s(tmp_path: Path) -> None:
    (tmp_path / ".hubquant").mkdir()
    (tmp_path / "README.md").write_text("# mine")
    (tmp_path / "a.gguf").write_text("GGUF")
    assert list(OutputFolder(tmp_path)) == []


def test_a_kill_while_a_file_is_placed_harms_nothing_that_shares_it(tmp_path: Path) -> None:
    source, out = tmp_path / "a", tmp_path / "out"
    source.write_text("GGUF")
    made(out, b="old")
    os.link(source, out / ".hubquant" / "arriving")
    made(out, b="new")
    assert source.read_text() == "GGUF"
    assert (out / "b").read_text() == "new"

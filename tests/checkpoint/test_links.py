"""What a model folder may link to: itself and, in the Hub's cache, its repository's blobs."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path

import pytest

from hubquant.errors import CheckpointError
from hubquant.hub.front_matter import read_card
from hubquant.models import load_tokenizer
from hubquant.models.tiny import build
from hubquant.recipe.schema import ModelReference
from hubquant.sources.open import open_source

READ = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "README.md",
    "chat_template.jinja",
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build("llama", tmp_path_factory.mktemp("models") / "tiny")
    for name in ("README.md", "chat_template.jinja"):
        (folder / name).write_text("x")
    return folder


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def open_(folder: Path) -> None:
    source = open_source(ModelReference(folder=str(folder)))
    source.conversion()
    source.tokenizer()


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("relative", [False, True])
def test_links_out_are_refused(model: Path, tmp_path: Path, name: str, relative: bool) -> None:
    elsewhere = tmp_path / "elsewhere" / name
    elsewhere.parent.mkdir()
    shutil.move(model / name, elsewhere)
    (model / name).symlink_to(os.path.relpath(elsewhere, model) if relative else elsewhere)
    with pytest.raises(CheckpointError, match=f"{name} is a link that leads out"):
        open_(model)
    with pytest.raises(CheckpointError, match="leads out"):
        load_tokenizer(model)


def test_folders_that_lead_out_are_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("{}")
    (model / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="leads out"):
        open_(model)


def test_links_that_stay_or_are_not_read_are_nobodys_business(model: Path, tmp_path: Path) -> None:
    (model / "weights").mkdir()
    shutil.move(model / "model.safetensors", model / "weights" / "model.safetensors")
    (model / "model.safetensors").symlink_to("weights/model.safetensors")
    (tmp_path / "notes").write_text("x")
    (model / "notes.pdf").symlink_to(tmp_path / "notes")
    (model / "broken.json").symlink_to(tmp_path / "nothing")
    (tmp_path / "link").symlink_to(model)
    open_(tmp_path / "link")


def test_a_snapshot_of_the_hubs_cache_is_made_of_links(model: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--org--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(path for path in model.iterdir() if path.is_file())):
        shutil.move(path, repository / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    open_(snapshot)
    (snapshot / "README.md").unlink()
    (tmp_path / "models--org--other").mkdir()
    (tmp_path / "models--org--other" / "blob").write_text("x")
    (snapshot / "README.md").symlink_to("../../../models--org--other/blob")
    with pytest.raises(CheckpointError, match="leads out"):
        open_(snapshot)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_pipes_are_not_waited_for(model: Path) -> None:
    (model / "generation_config.json").unlink()
    os.mkfifo(model / "generation_config.json")
    with pytest.raises(CheckpointError, match="a pipe"):
        open_(model)


def test_a_template_that_would_fill_the_memory_is_refused(model: Path) -> None:
    os.truncate(model / "chat_template.jinja", 1 << 32)
    with pytest.raises(CheckpointError, match="too large for a template"):
        open_(model)


def test_of_a_readme_the_beginning_is_read(model: Path) -> None:
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    os.truncate(model / "README.md", 1 << 28)
    tracemalloc.start()
    try:
        assert read_card(model) == {"license": "mit"}
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()

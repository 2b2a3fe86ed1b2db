"""What a reference becomes: its name, what it is known by, and its weights once they are here."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from hubquant.engine.local import make
from hubquant.engine.progress import Silent
from hubquant.engine.store import Store
from hubquant.engine.task import Context
from hubquant.errors import CheckpointError, GGUFError, HubAccessError, HubquantError, NotSupportedYet
from hubquant.gguf_file import GGUFWriter, Split, TensorEntry, shard, shard_paths
from hubquant.gguf_file.metadata import string
from hubquant.recipe.schema import Convert, ModelReference
from hubquant.sources.open import open_component, open_source
from hubquant.sources.pulled import Pulled
from hubquant.sources.source import SourceModel
from tests.support.localhub import LocalHub

NORM = "model.norm.weight"


def reference(**given: str) -> ModelReference:
    return ModelReference.model_validate(given)


def pulled(source: SourceModel, root: Path) -> SourceModel:
    """The source with its weights on disk, by a task that was sent somewhere."""
    task = pickle.loads(pickle.dumps(Pulled(source)))
    assert task == Pulled(source)
    store = Store(root / "store")
    made = make([task], store, Silent())
    assert made == ([task] if source.remote else [])
    assert task.is_there()
    read: SourceModel = Context(store, Silent()).read(task)
    assert read.remote is None
    assert make([Pulled(source)], store, Silent()) == []
    return read


def test_of_two_layouts_one_is_downloaded(tiny_llama: Path, hub: LocalHub, tmp_path: Path) -> None:
    """As Mistral publishes models."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    (folder / "params.json").write_text("{}")
    hub.add("org/both", folder)
    source = open_source(reference(id="org/both"))
    assert source.weight_files == ("model.safetensors",)
    place = pulled(source, tmp_path).folder
    assert not any(path.name.startswith(("consolidated", "params")) for path in place.iterdir())


def gguf(folder: Path, max_bytes: int = 1 << 30) -> list[Path]:
    """A file, or its shards, with two tensors."""
    names = {"token_embd.weight": 2.0, "output_norm.weight": 3.0}
    metadata = {"general.architecture": string("llama"), "general.license": string("mit")}
    layouts = shard(metadata, [TensorEntry(name, (4, 32), "F32") for name in names], Split(max_bytes))
    paths = shard_paths(folder / "two.gguf", len(layouts))
    for path, layout in zip(paths, layouts, strict=True):
        with GGUFWriter(path, layout) as writer:
            for name in layout.tensors:
                writer.write(name, torch.full((4, 32), names[name]).numpy())
            writer.finish()
    return paths


def test_a_folder(tiny_llama: Path, tmp_path: Path) -> None:
    source = open_source(reference(folder=str(tiny_llama)))
    assert (source.name, source.full_name, source.id, source.revision) == ("tiny-llama", "tiny-llama", None, "local")
    assert source.card["license"] == "apache-2.0"
    assert (source.remote, source.download_bytes) == (None, 0)
    assert source.exact_revision == source.identity["state"]
    assert pulled(source, tmp_path).checkpoint.read(NORM).shape == (256,)
    how = Convert(pre_tokenizer="llama-bpe")
    assert open_source(reference(folder=str(tiny_llama)), how).pre_tokenizer == "llama-bpe"


def test_what_a_folder_is_known_by(tiny_llama: Path, tmp_path: Path) -> None:
    """Its content on every machine; here also its files' times, and the place, which tells models of equal files."""
    copy = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    first, second = (open_source(reference(folder=str(folder))) for folder in (tiny_llama, copy))
    assert first.identity == second.identity
    assert Pulled(first) != Pulled(second)
    assert Pulled(second) == Pulled(open_source(reference(folder=str(copy / ".." / "copy"))))
    os.utime(copy / "model.safetensors", (1, 1))
    touched = open_source(reference(folder=str(copy)))
    assert touched.identity["model"] == first.identity["model"]
    assert Pulled(touched) != Pulled(second)
    (copy / "generation_config.json").write_text('{"max_length": 9}')
    assert open_source(reference(folder=str(copy))).identity["model"] != first.identity["model"]


def test_the_demo(tmp_path: Path) -> None:
    source = open_source(reference(bundled="demo"))
    assert (source.name, source.id) == ("hubquant-demo", None)
    assert pulled(source, tmp_path).checkpoint.read(NORM).dim() == 1
    component = open_component(reference(bundled="demo"))
    assert component.inputs == "tokens"
    assert component.n_parameters == 3_672_320


def test_a_gguf_file(tmp_path: Path) -> None:
    [path] = gguf(tmp_path)
    source = open_source(reference(file=str(path)))
    assert (source.name, source.id, source.revision) == ("two", None, "local")
    assert source.card["license"] == "mit"
    assert source.identity["model"] == "two.gguf"
    assert not source.can_offload
    assert not source.converts_tokenizer
    assert pulled(source, tmp_path).checkpoint.read("output_norm.weight").unique().tolist() == [3.0]
    (tmp_path / "other").mkdir()
    other = Path(shutil.copy2(path, tmp_path / "other"))
    assert Pulled(open_source(reference(file=str(other)))) != Pulled(source)


def test_a_shard_is_all_of_them(tmp_path: Path) -> None:
    paths = gguf(tmp_path, max_bytes=4 * 32 * 4)
    assert len(paths) == 2
    first = open_source(reference(file=str(paths[0])))
    assert first.name == "two"
    assert set(first.checkpoint.tensors) == {"token_embd.weight", "output_norm.weight"}
    read = pulled(first, tmp_path).checkpoint
    assert [read.read(name).unique().tolist() for name in sorted(read.tensors)] == [[3.0], [2.0]]
    os.utime(paths[1], (1, 1))
    assert Pulled(open_source(reference(file=str(paths[0])))) != Pulled(first)
    paths[1].unlink()
    with pytest.raises(GGUFError):
        open_source(reference(file=str(paths[0])))


def test_a_repository_of_the_hub(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    hub.add("org/tiny", tiny_llama)
    head = hub.repository("org/tiny").head
    source = open_source(reference(id="org/tiny"))
    assert (source.name, source.full_name, source.revision) == ("tiny", "org/tiny", head)
    assert source.identity == {"model": f"org/tiny@{head}"}
    assert source.exact_revision == head
    assert source.card["license"] == "apache-2.0"
    assert source.download_bytes == (tiny_llama / "model.safetensors").stat().st_size
    assert source.checkpoint.folder is None
    task = Pulled(source)
    assert not task.is_there()
    assert (task.step, task.detail, task.label) == ("pull", f"org/tiny at {head[:12]}", f"copy of {task.detail}")
    read = pulled(source, tmp_path)
    assert read.checkpoint.read(NORM).shape == (256,)
    assert read.identity == source.identity
    assert open_source(reference(id="org/tiny")).download_bytes == 0
    hub.add("org/tiny", {"config.json": (tiny_llama / "config.json").read_bytes() + b"\n"})
    assert Pulled(open_source(reference(id="org/tiny"))) != task
    assert Pulled(open_source(reference(id="org/tiny", revision=head))) == task


@pytest.mark.parametrize(
    ("given", "error", "what"),
    [
        ({"folder": "/nowhere/at/all"}, CheckpointError, "there is no folder"),
        ({"folder": "."}, CheckpointError, r"model\.safetensors"),
        ({"file": "none.gguf"}, GGUFError, "none.gguf"),
        ({"id": "org/absent"}, HubAccessError, "org/absent"),
        ({"bundled": "demo", "allow_pickle": "true"}, NotSupportedYet, "pickled"),
    ],
)
def test_what_cannot_be_opened(
    given: dict[str, str], error: type[HubquantError], what: str, hub: LocalHub, tmp_path: Path
) -> None:
    assert hub.url
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with pytest.raises(error, match=what):
            open_source(reference(**given))

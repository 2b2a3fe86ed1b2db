"""Collection, against llama.cpp's own activations and against an uninterrupted run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hubquant.calibration import Chunks, build
from hubquant.errors import ImatrixError
from hubquant.imatrix import ImportanceMatrix, collect, collected_names
from hubquant.models import load, load_tokenizer
from hubquant.models.tiny import build as build_model
from hubquant.recipe.schema import TextSource
from tests.support.conversion import write_gguf
from tests.support.llamacpp import LlamaCpp


@dataclass(frozen=True)
class Tiny:
    folder: Path
    gguf: Path
    modules: dict[str, str]
    chunks: Chunks


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = build_model(request.param, tmp_path_factory.mktemp(request.param))
    gguf = folder / "f32.gguf"
    modules = dict(write_gguf(folder, gguf, "F32").modules)
    return Tiny(folder, gguf, modules, build([TextSource(bundled="test")], load_tokenizer(folder), 128, 20, 0))


@pytest.fixture
def model(tiny: Tiny) -> Any:
    return load(tiny.folder, "cpu")


def assert_identical(first: ImportanceMatrix, second: ImportanceMatrix) -> None:
    assert first.entries.keys() == second.entries.keys()
    for name, entry in first.entries.items():
        other = second.entries[name]
        assert entry.in_sum is not None
        assert other.in_sum is not None
        assert torch.equal(entry.in_sum2, other.in_sum2)
        assert torch.equal(entry.in_sum, other.in_sum)
        assert torch.equal(entry.counts, other.counts)


@pytest.mark.parametrize("process_output", [False, True])
def test_sums_are_llamacpps(tiny: Tiny, model: Any, process_output: bool) -> None:
    advanced: list[int] = []
    matrix = collect(model, tiny.chunks, tiny.modules, process_output=process_output, advance=advanced.append)
    with LlamaCpp(tiny.gguf) as llama:
        expected = llama.imatrix(tiny.chunks.ids.tolist())
    if not process_output:
        del expected["output.weight"]
    assert matrix.entries.keys() == expected.keys()
    for name, (sums, counts) in expected.items():
        entry = matrix.entries[name]
        assert entry.in_sum2.dtype == torch.float64
        assert entry.counts.tolist() == counts.tolist() == [20 * 128]
        torch.testing.assert_close(entry.in_sum2, torch.from_numpy(sums), rtol=1e-5, atol=0)
    assert sum(advanced) == matrix.chunk_count == 20
    assert matrix.provenance["calibration_sha256"] == tiny.chunks.fingerprint
    assert set(matrix.entries) == set(collected_names(tiny.modules.values(), process_output))


def test_signed_sums(tiny: Tiny, model: Any) -> None:
    name, inputs = "model.layers.1.mlp.down_proj", []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, x: inputs.append(x[0].double()))
    with torch.no_grad():
        model(tiny.chunks.ids)
    hook.remove()
    entry = collect(model, tiny.chunks, tiny.modules).entries["blk.1.ffn_down.weight"]
    x = inputs[0].reshape(-1, inputs[0].shape[-1])
    assert entry.in_sum is not None
    torch.testing.assert_close(entry.in_sum[0], x.sum(0), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(entry.in_sum2[0], x.square().sum(0), rtol=1e-5, atol=0)


def test_collection_leaves_the_model_as_it_was(tiny: Tiny, model: Any) -> None:
    before = model(tiny.chunks.ids[:1]).logits
    collect(model, tiny.chunks, tiny.modules)
    assert torch.equal(model(tiny.chunks.ids[:1]).logits, before)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_half_precision_is_summed_in_float32(tiny: Tiny, model: Any) -> None:
    reference = collect(model, tiny.chunks, tiny.modules)
    matrix = collect(model.to(torch.bfloat16), tiny.chunks, tiny.modules)
    for name, entry in matrix.entries.items():
        torch.testing.assert_close(entry.in_sum2.sum(), reference.entries[name].in_sum2.sum(), rtol=0.02, atol=0)


def test_activation_that_is_not_finite(tiny: Tiny, model: Any) -> None:
    token = int(tiny.chunks.ids[17, 5])
    others = torch.cat([tiny.chunks.ids[:17], tiny.chunks.ids[18:]])
    replacement = next(t for t in range(2, 384) if t not in others)
    ids = tiny.chunks.ids.clone()
    ids[17][ids[17] == token] = replacement
    model.get_input_embeddings().weight[replacement] = float("nan")
    with pytest.raises(ImatrixError, match=r"blk\.0\.attn_q\.weight is not finite in chunk 18"):
        collect(model, Chunks(ids, ("x",), (20,), "0"), tiny.modules)


def test_module_that_is_not_there(tiny: Tiny, model: Any) -> None:
    with pytest.raises(ImatrixError, match=r"no module model\.layers\.9"):
        collect(model, tiny.chunks, tiny.modules | {"model.layers.9.mlp.up_proj": "blk.9.ffn_up.weight"})


KILLED_RUN = """
import json, os, signal, sys
from pathlib import Path
from hubquant.calibration import build
from hubquant.imatrix import collect
from hubquant.models import load, load_tokenizer
from hubquant.recipe.schema import TextSource

folder, snapshot, modules, stop = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
chunks = build([TextSource(bundled="test")], load_tokenizer(folder), 128, 20, 0)
left = stop

def advance(n):
    global left
    left -= n
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

collect(load(folder, "cpu"), chunks, modules, snapshot=snapshot, snapshot_seconds=0.0, advance=advance)
"""


@pytest.mark.parametrize("tiny", ["llama"], indirect=True)
def test_killed_run_goes_on_with_the_same_bits(tiny: Tiny, model: Any, tmp_path: Path) -> None:
    snapshot = tmp_path / "state" / "collection.snapshot"
    whole = collect(model, tiny.chunks, tiny.modules)
    command = [sys.executable, "-c", KILLED_RUN, tiny.folder, snapshot, json.dumps(tiny.modules), "17"]
    assert subprocess.run(command, check=False).returncode == -9
    steps: list[int] = []
    resumed = collect(model, tiny.chunks, tiny.modules, snapshot=snapshot, advance=steps.append)
    assert steps == [16, 4]
    assert_identical(resumed, whole)
    # Complete, so that a run killed before its matrix was saved has nothing to compute.
    steps.clear()
    assert_identical(collect(model, tiny.chunks, tiny.modules, snapshot=snapshot, advance=steps.append), whole)
    assert steps == [20]


def test_snapshot_of_other_work_is_not_used(tiny: Tiny, model: Any, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    collect(model, tiny.chunks, tiny.modules, snapshot=snapshot)
    fewer = build([TextSource(bundled="test")], load_tokenizer(tiny.folder), 128, 19, 0)
    model.get_submodule("model.layers.0.mlp.up_proj").weight[3] += 0.5
    for chunks in (fewer, tiny.chunks):
        steps: list[int] = []
        found = collect(model, chunks, tiny.modules, snapshot=snapshot, advance=steps.append)
        assert steps[0] == 16
        assert_identical(found, collect(model, chunks, tiny.modules))


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x10\0\0\0\0\0\0\0{"])
def test_broken_snapshot_is_ignored(tiny: Tiny, model: Any, tmp_path: Path, content: bytes) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.write_bytes(content)
    assert_identical(
        collect(model, tiny.chunks, tiny.modules, snapshot=snapshot), collect(model, tiny.chunks, tiny.modules)
    )

"""Collection, against llama.cpp's own activations and against an uninterrupted run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hubquant.calibration import Chunks, build
from hubquant.errors import ImatrixError
from hubquant.imatrix import ImportanceMatrix
from hubquant.models import load_tokenizer
from hubquant.models.taps.tap import ModuleInput, Tap
from hubquant.models.tiny import build as build_model
from hubquant.observe import Collection, CollectionRequest, SnapshotPlace, collect, collected_names
from hubquant.observe.sums import sum_of_squares
from hubquant.recipe.schema import TextSource
from hubquant.sources.checkpoint import load_folder
from tests.convert.test_llama_cpp import MODELS
from tests.support.conversion import write_gguf
from tests.support.llamacpp import LlamaCpp
from tests.support.processes import exit_code, killer


@dataclass(frozen=True)
class Tiny:
    folder: Path
    gguf: Path
    taps: Mapping[str, Tap]
    chunks: Chunks


EXACT = {"llama": "llama", "qwen3": "qwen3", "qwen3_moe": "qwen3_moe", "gemma2": "gemma2", "deepseek_v3": "deepseek3"}


def make(family: str, folder: Path, config: Mapping[str, Any]) -> Tiny:
    build_model(family, folder, **config)
    conversion = write_gguf(folder, folder / "f32.gguf", "F32")
    chunks = build([TextSource(bundled="test")], load_tokenizer(folder), 128, 20, 0)
    return Tiny(folder, folder / "f32.gguf", conversion.taps, chunks)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make("llama", tmp_path_factory.mktemp("llama"), {})


@pytest.fixture
def model(tiny: Tiny) -> Any:
    return load_folder(tiny.folder, "cpu")


def assert_identical(first: ImportanceMatrix, second: ImportanceMatrix) -> None:
    assert first.entries.keys() == second.entries.keys()
    for name, entry in first.entries.items():
        other = second.entries[name]
        assert entry.in_sum is not None
        assert other.in_sum is not None
        assert torch.equal(entry.in_sum2, other.in_sum2)
        assert torch.equal(entry.in_sum, other.in_sum)
        assert torch.equal(entry.counts, other.counts)


class TabledGelu(torch.nn.Module):
    """llama.cpp looks GELU up in a table of half floats."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rounded = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
        return torch.where(x <= -10, 0.0, torch.where(x >= 10, x, rounded))


@pytest.mark.parametrize("family", EXACT)
def test_sums_are_llamacpps(family: str, tmp_path: Path) -> None:
    tiny = make(family, tmp_path, MODELS[EXACT[family]][1])
    model: Any = load_folder(tiny.folder, "cpu")
    if family == "gemma2":
        for layer in model.model.layers:
            layer.mlp.act_fn = TabledGelu()
    advanced: list[int] = []
    collection = collect(model, tiny.chunks, tiny.taps, CollectionRequest(process_output=True), advance=advanced.append)
    matrix = collection.matrix()
    with LlamaCpp(tiny.gguf) as llama:
        expected = llama.imatrix(tiny.chunks.ids.tolist())
    assert matrix.entries.keys() == expected.keys()
    for name, (sums, counts) in expected.items():
        entry = matrix.entries[name]
        assert entry.in_sum2.dtype == torch.float64
        assert entry.counts.tolist() == counts.tolist()
        # An input between two entries of the table rounds up in one program and down in the other.
        rtol = 1e-4 if family == "gemma2" and "ffn_down" in name else 1e-5
        torch.testing.assert_close(entry.in_sum2, torch.from_numpy(sums), rtol=rtol, atol=0)
    assert sum(advanced) == matrix.chunk_count == 20
    assert matrix.provenance["calibration_sha256"] == tiny.chunks.fingerprint
    without = collect(model, tiny.chunks, tiny.taps).matrix()
    assert set(without.entries) == set(collected_names(tiny.taps, process_output=False))
    assert set(matrix.entries) - set(without.entries) == {"output.weight"} & set(tiny.taps)


def test_signed_sums(tiny: Tiny, model: Any) -> None:
    name, inputs = "model.layers.1.mlp.down_proj", []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, x: inputs.append(x[0].double()))
    with torch.no_grad():
        model(tiny.chunks.ids)
    hook.remove()
    entry = collect(model, tiny.chunks, tiny.taps).matrix().entries["blk.1.ffn_down.weight"]
    x = inputs[0].reshape(-1, inputs[0].shape[-1])
    assert entry.in_sum is not None
    torch.testing.assert_close(entry.in_sum[0], x.sum(0), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(entry.in_sum2[0], x.square().sum(0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "llama4", "deepseek3"])
def test_collection_leaves_the_model_as_it_was(family: str, tmp_path: Path) -> None:
    name, config = MODELS[family]
    tiny = make(name, tmp_path, config)
    model: Any = load_folder(tiny.folder, "cpu")
    settings, before = str(model.config.to_dict()), model(tiny.chunks.ids[:1]).logits
    collect(model, tiny.chunks, tiny.taps)
    assert torch.equal(model(tiny.chunks.ids[:1]).logits, before)
    assert str(model.config.to_dict()) == settings
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_half_precision_is_summed_in_float32(tiny: Tiny, model: Any) -> None:
    reference = collect(model, tiny.chunks, tiny.taps).matrix()
    matrix = collect(model.to(torch.bfloat16), tiny.chunks, tiny.taps).matrix()
    for name, entry in matrix.entries.items():
        torch.testing.assert_close(entry.in_sum2.sum(), reference.entries[name].in_sum2.sum(), rtol=0.02, atol=0)


def broken_chunk(tiny: Tiny, chunk: int) -> tuple[Chunks, int]:
    """Chunks of which one alone has a token, and that token."""
    token = int(tiny.chunks.ids[chunk, 5])
    others = torch.cat([tiny.chunks.ids[:chunk], tiny.chunks.ids[chunk + 1 :]])
    unused = next(t for t in range(2, 384) if t not in others)
    ids = tiny.chunks.ids.clone()
    ids[chunk][ids[chunk] == token] = unused
    return Chunks(ids, ("x",), (20,), "0"), unused


def test_a_chunk_that_is_not_finite_is_left_out(tiny: Tiny, model: Any) -> None:
    chunks, token = broken_chunk(tiny, 17)
    model.get_input_embeddings().weight[token] = float("nan")
    collection = collect(model, chunks, tiny.taps)
    assert collection.skipped == [18]
    matrix = collection.matrix()
    assert matrix.provenance["skipped_chunks"] == "18"
    assert matrix.chunk_count == 19
    rest = collect(model, chunks.part([*range(17), 18, 19]), tiny.taps).matrix()
    for name, entry in matrix.entries.items():
        assert entry.counts.tolist() == [19 * 128]
        torch.testing.assert_close(entry.in_sum2, rest.entries[name].in_sum2, rtol=1e-5, atol=0)


def test_what_overflows_in_half_precision_is_run_in_float32(tiny: Tiny, model: Any) -> None:
    chunks, token = broken_chunk(tiny, 17)
    model.get_input_embeddings().weight[token] *= 1e5  # beyond half precision once it is squared for the norm
    model.model.layers[0].mlp.down_proj.weight *= 3e3
    reference = collect(model, chunks, tiny.taps).matrix()
    collection = collect(model.half(), chunks, tiny.taps)
    assert model.dtype == torch.float16
    assert collection.skipped == []
    for name, entry in collection.matrix().entries.items():
        assert entry.counts.tolist() == [20 * 128]
        torch.testing.assert_close(entry.in_sum2.sum(), reference.entries[name].in_sum2.sum(), rtol=0.05, atol=0)


def test_no_chunk_that_can_be_used(tiny: Tiny, model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight[0] = float("inf")
    with pytest.raises(ImatrixError, match="no chunk can be used"):
        collect(model, tiny.chunks, tiny.taps)


def test_module_that_is_not_there(tiny: Tiny, model: Any) -> None:
    with pytest.raises(ImatrixError, match=r"no module model\.layers\.9"):
        collect(model, tiny.chunks, {**tiny.taps, "blk.9.ffn_up.weight": ModuleInput("model.layers.9.mlp.up_proj")})
    assert not any(module._forward_pre_hooks for module in model.modules())


def _collect_until_killed(folder: Path, snapshot: Path, chunks: Chunks, taps: Mapping[str, Tap], steps: int) -> None:
    keeping = SnapshotPlace(snapshot, seconds=0.0)
    collect(load_folder(folder, "cpu"), chunks, taps, keeping=keeping, advance=killer(steps))


def resumed(tiny: Tiny, model: Any, snapshot: Path, chunks: Chunks | None = None) -> tuple[Collection, list[int]]:
    steps: list[int] = []
    found = collect(model, chunks or tiny.chunks, tiny.taps, keeping=SnapshotPlace(snapshot), advance=steps.append)
    return found, steps


def test_killed_run_goes_on_with_the_same_bits(tiny: Tiny, model: Any, tmp_path: Path) -> None:
    snapshot = tmp_path / "state" / "collection.snapshot"
    whole = collect(model, tiny.chunks, tiny.taps).matrix()
    assert exit_code(_collect_until_killed, tiny.folder, snapshot, tiny.chunks, tiny.taps, 17) == -9
    found, steps = resumed(tiny, model, snapshot)
    assert steps == [16, 4]
    assert_identical(found.matrix(), whole)
    # Complete, so that a run killed before its matrix was saved has nothing to compute.
    found, steps = resumed(tiny, model, snapshot)
    assert_identical(found.matrix(), whole)
    assert steps == [20]


def test_scores_and_skipped_chunks_are_kept_too(tiny: Tiny, model: Any, tmp_path: Path) -> None:
    chunks, token = broken_chunk(tiny, 3)
    model.get_input_embeddings().weight[token] = float("nan")

    def score(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return -logits[:-1].log_softmax(-1).gather(1, ids[len(ids) // 2 + 1 :, None]).squeeze(1).double()

    wanted, keeping = CollectionRequest(score=score), SnapshotPlace(tmp_path / "snapshot", seconds=0.0)
    whole = collect(model, chunks, tiny.taps, wanted)
    assert [len(part) for part in whole.nll] == [63] * 19

    def stop(collection: Collection) -> None:
        if collection.done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(model, chunks, tiny.taps, wanted, keeping=SnapshotPlace(keeping.path, seconds=0.0), watch=stop)
    found = collect(model, chunks, tiny.taps, wanted, keeping=keeping)
    assert found.skipped == whole.skipped == [4]
    assert torch.equal(torch.cat(found.nll), torch.cat(whole.nll))


def test_snapshot_of_other_work_is_not_used(tiny: Tiny, model: Any, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    resumed(tiny, model, snapshot)
    fewer = build([TextSource(bundled="test")], load_tokenizer(tiny.folder), 128, 19, 0)
    model.get_submodule("model.layers.0.mlp.up_proj").weight[3] += 0.5
    for chunks in (fewer, tiny.chunks):
        found, steps = resumed(tiny, model, snapshot, chunks)
        assert steps[0] == 16
        assert_identical(found.matrix(), collect(model, chunks, tiny.taps).matrix())


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x10\0\0\0\0\0\0\0{"])
def test_broken_snapshot_is_ignored(tiny: Tiny, model: Any, tmp_path: Path, content: bytes) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.write_bytes(content)
    found, _ = resumed(tiny, model, snapshot)
    assert_identical(found.matrix(), collect(model, tiny.chunks, tiny.taps).matrix())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_to_sum_squares_agree(dtype: torch.dtype) -> None:
    """The one for GPUs is computed here as it stands, the one for CPUs is the product's."""
    x = torch.randn(3, 512, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    fused = torch.linalg.vector_norm(x, dim=1, dtype=torch.float32).square()
    torch.testing.assert_close(fused, sum_of_squares(x), rtol=5e-6, atol=0)

"""What flows into weights in llama.cpp, in a process of its own, against transformers' hooks."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
import torch

from hubquant.calibration.chunks import Chunks, build
from hubquant.errors import EvaluationError, ImatrixError
from hubquant.imatrix import ImportanceMatrix
from hubquant.llamacpp import binding
from hubquant.llamacpp.collecting import collect_in_llamacpp
from hubquant.llamacpp.inputs import WatchedFile, check_tensors
from hubquant.llamacpp.runner import LlamaCppRunner
from hubquant.models import load_tokenizer
from hubquant.models.tiny import build as build_model
from hubquant.observe import Collection, CollectionRequest, SnapshotPlace, collect
from hubquant.pipeline.importance import score
from hubquant.recipe.schema import TextSource
from hubquant.sources.checkpoint import load_folder
from tests.convert.test_llama_cpp import MODELS
from tests.support.conversion import build_uneven, edit_weights, write_gguf

N_CHUNKS = 5


class Stop(Exception):
    """In the place of a kill."""


def chunks_of(folder: Path) -> Chunks:
    return build([TextSource(bundled="test")], load_tokenizer(folder), 64, N_CHUNKS, 0)


def collected(
    file: Path, chunks: Chunks, weights: Any, folder: Path, wanted: CollectionRequest, **options: Any
) -> Collection:
    keeping = SnapshotPlace(folder / "snapshot", "known", seconds=0.0)
    return collect_in_llamacpp(file, chunks, weights, wanted, keeping=keeping, instead="-", **options)


def near(found: ImportanceMatrix, expected: ImportanceMatrix, rtol: float) -> None:
    assert found.entries.keys() == expected.entries.keys()
    assert (found.chunk_count, found.datasets) == (expected.chunk_count, expected.datasets)
    for name, entry in expected.entries.items():
        other = found.entries[name]
        assert other.counts.tolist() == entry.counts.tolist()
        torch.testing.assert_close(other.in_sum2, entry.in_sum2, rtol=rtol, atol=rtol * float(entry.in_sum2.mean()))
        assert entry.in_sum is not None
        assert other.in_sum is not None
        scale = (entry.in_sum2 * entry.counts[:, None]).sqrt()  # as large as a sum of so many numbers can be
        torch.testing.assert_close(other.in_sum, entry.in_sum, rtol=0, atol=rtol * float(scale.max()))


@pytest.mark.parametrize(("family", "type"), [("llama", "F32"), ("llama", "F16"), ("qwen3_moe", "F32")])
def test_sums_are_those_of_the_hooks(family: str, type: str, tmp_path: Path) -> None:
    folder, file = build_uneven(family, tmp_path / "model", **MODELS[family][1]), tmp_path / "m.gguf"
    chunks, conversion = chunks_of(folder), write_gguf(folder, file, type)
    wanted = CollectionRequest(process_output=True, score=score)
    expected = collect(load_folder(folder, "cpu"), chunks, conversion.taps, wanted)
    found = collected(file, chunks, conversion.taps, tmp_path, wanted)
    near(found.matrix(), expected.matrix(), 1e-5 if type == "F32" else 5e-3)
    atol = 1e-4 if type == "F32" else 0.2
    torch.testing.assert_close(torch.cat(found.nll), torch.cat(expected.nll), rtol=0, atol=atol)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    folder = tmp_path_factory.mktemp("llama")
    build_model("llama", folder / "model")
    conversion = write_gguf(folder / "model", folder / "m.gguf", "F32")
    return folder / "model", folder / "m.gguf", conversion.taps


def test_a_killed_collection_goes_on(llama: tuple[Path, Path, Any], tmp_path: Path) -> None:
    folder, file, taps = llama
    chunks, wanted = chunks_of(folder), CollectionRequest(score=score)
    whole = collected(file, chunks, taps, tmp_path / "whole", wanted)

    def stop(collection: Collection) -> None:
        if collection.done == 3:
            raise Stop

    with pytest.raises(Stop):
        collected(file, chunks, taps, tmp_path / "killed", wanted, watch=stop)
    steps: list[int] = []
    found = collected(file, chunks, taps, tmp_path / "killed", wanted, advance=steps.append)
    assert steps[0] in (1, 2)  # the state is kept for a twentieth of the time
    assert sum(steps) == N_CHUNKS
    assert torch.equal(torch.cat(found.nll), torch.cat(whole.nll))
    for name, entry in whole.matrix().entries.items():
        other = found.matrix().entries[name]
        assert torch.equal(other.in_sum2, entry.in_sum2)
        assert torch.equal(other.counts, entry.counts)


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    build_model("llama", tmp_path / "model")

    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.0.mlp.up_proj.weight"] *= 1e30
        weights["model.layers.0.mlp.gate_proj.weight"] *= 1e30

    edit_weights(tmp_path / "model", spoil)
    taps = write_gguf(tmp_path / "model", tmp_path / "m.gguf", "F32").taps
    with pytest.raises(ImatrixError, match="no chunk can be used"):
        collected(tmp_path / "m.gguf", chunks_of(tmp_path / "model"), taps, tmp_path, CollectionRequest())


def test_one_weight_alone_has_each_pass_of_its_own(llama: tuple[Path, Path, Any]) -> None:
    """llama.cpp computes the next pass in the same place."""
    _, file, _ = llama
    name = "blk.0.attn_q.weight"
    with WatchedFile(file, 16, 1) as watched:
        sums = []
        for ids in ([3] * 16, [5] * 16):
            with watched.watching(name.__eq__) as found:
                watched.logits(ids)
            sums.append(found[name].sum2)
        with watched.watching(name.__eq__) as both:
            for ids in ([3] * 16, [5] * 16):
                watched.logits(ids)
    assert (sums[0] != sums[1]).any()
    assert (both[name].sum2 == sums[0] + sums[1]).all()


def test_a_file_that_is_none_ends_in_a_message(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(EvaluationError, match="cannot run") as raised:
        LlamaCppRunner(tmp_path / "m.gguf", 16, watched=["blk.0.attn_q.weight"], instead="do otherwise")
    assert "do otherwise" in str(raised.value.hint)


class OtherTensors:
    """The wheel's library with products that begin eight bytes earlier, as those of a ggml with one field more."""

    def __init__(self) -> None:
        self._lib = binding.library()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lib, name)

    def ggml_mul_mat(self, *operands: Any) -> Any:
        made = self._lib.ggml_mul_mat(*operands)
        return ctypes.cast(ctypes.addressof(made.contents) - 8, type(made))


def test_another_ggml_is_refused() -> None:
    with pytest.raises(binding.BindingError, match="a ggml with other tensors"):
        check_tensors(OtherTensors())  # type: ignore[arg-type]

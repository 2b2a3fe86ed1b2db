"""Streaming: the same statistics from a model that is never in memory as a whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from hubquant.calibration import Chunks
from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.blocks import open_checkpoint
from hubquant.errors import ImatrixError
from hubquant.imatrix import ImportanceMatrix
from hubquant.models.spill import Spill
from hubquant.models.stream import BlockStream, in_memory
from hubquant.observe import OUTPUT, Collection, CollectionRequest, SnapshotPlace, collect
from hubquant.observe.moments import TOKEN_EMBEDDING, WeightMoments, moments_by_block
from hubquant.observe.streamed import collect_streamed
from hubquant.sources.checkpoint import load_folder
from tests.checkpoint import test_float8, test_mxfp4
from tests.convert import test_gemma3n
from tests.support.conversion import Weights, build_uneven, edit_weights, plan
from tests.support.processes import exit_code, killer

packed = test_mxfp4.packed
IDS = torch.randint(3, 380, (6, 64), generator=torch.Generator().manual_seed(0))
CHUNKS = Chunks(IDS, ("x",), (6,), "0")


def streamed(
    folder: Path,
    chunks: Chunks = CHUNKS,
    wanted: CollectionRequest = CollectionRequest(),  # noqa: B008  # frozen
    **more: Any,
) -> Collection:
    return collect_streamed(
        BlockStream(open_checkpoint(Checkpoint.from_folder(folder))), chunks, plan(folder).taps, wanted, **more
    )


def assert_close(found: ImportanceMatrix, expected: ImportanceMatrix) -> None:
    assert found.entries.keys() == expected.entries.keys()
    assert found.provenance == expected.provenance
    for name, entry in expected.entries.items():
        other = found.entries[name]
        assert other.counts.tolist() == entry.counts.tolist()
        torch.testing.assert_close(other.in_sum2, entry.in_sum2, rtol=1e-5, atol=1e-9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_uneven("qwen3", tmp_path_factory.mktemp("streamed"), num_hidden_layers=4)


@dataclass(frozen=True)
class Counting(Checkpoint):
    """Counts how often each tensor is read."""

    reads: Counter[str] = field(default_factory=Counter)

    def read(self, name: str) -> torch.Tensor:
        self.reads[name] += 1
        return super().read(name)


def test_each_weight_is_read_once_and_two_blocks_are_in_memory(folder: Path) -> None:
    plain = Checkpoint.from_folder(folder)
    checkpoint = Counting(plain.config, plain.tensors, plain.folder)
    weights = open_checkpoint(checkpoint)
    stream = BlockStream(weights)
    loaded: list[int] = []

    def count(_: int) -> None:
        loaded.append(sum(any(not p.is_meta for p in block.parameters()) for block in weights.blocks))

    collect_streamed(stream, CHUNKS, plan(folder).taps, advance=count)
    assert set(loaded) == {1}  # and the next one, as it is stored
    assert loaded.count(1) == 4 * len(CHUNKS)
    assert checkpoint.reads == Counter({name: 1 for name in checkpoint.tensors if name != "lm_head.weight"})
    assert not any(not p.is_meta for block in weights.blocks for p in block.parameters())


@pytest.mark.parametrize("source", ["blocks", "compressed channels"])
def test_checkpoints_in_fp8(source: str, tmp_path: Path) -> None:
    model, _ = test_float8.build(source, tmp_path)
    assert_close(streamed(model).matrix(), collect(load_folder(model, "cpu"), CHUNKS, plan(model).taps).matrix())


def test_experts_in_mxfp4(packed: Path) -> None:
    assert_close(streamed(packed).matrix(), collect(load_folder(packed, "cpu"), CHUNKS, plan(packed).taps).matrix())


@pytest.mark.slow
@pytest.mark.parametrize("keep", [in_memory, None])
def test_layers_that_share_keys(keep: Any, tmp_path: Path) -> None:
    """Gemma 3n, whose blocks pass on more than hidden states: nothing is kept of an unfinished collection."""
    model = test_gemma3n.build(tmp_path / "model")
    taps, keeping = plan(model).taps, SnapshotPlace(tmp_path / "snapshot", seconds=0.0)
    stream = BlockStream(open_checkpoint(Checkpoint.from_folder(model)), keep or Spill(tmp_path / "hidden"))
    found = collect_streamed(stream, CHUNKS, taps, keeping=keeping).matrix()
    assert_close(found, collect(load_folder(model, "cpu"), CHUNKS, taps).matrix())
    assert not keeping.path.exists()


def score(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return -logits[:-1].double().log_softmax(-1).gather(1, ids[len(ids) // 2 + 1 :, None]).squeeze(1)


@pytest.mark.parametrize("tied", [False, True])
def test_output_and_likelihood(tied: bool, tmp_path: Path) -> None:
    model = build_uneven("qwen3", tmp_path, tie_word_embeddings=tied)
    wanted = CollectionRequest(process_output=True, score=score)
    expected = collect(load_folder(model, "cpu"), CHUNKS, plan(model).taps, wanted)
    found = streamed(model, wanted=wanted)
    assert_close(found.matrix(), expected.matrix())
    others = {name for name in found.matrix().entries if not name.startswith("blk.")}
    assert others == (set() if tied else {"output.weight"})  # llama-imatrix has no entry of a tied output
    torch.testing.assert_close(torch.cat(found.nll), torch.cat(expected.nll), rtol=1e-4, atol=1e-5)


def test_a_chunk_that_is_not_finite_is_left_out_from_there_on(tmp_path: Path) -> None:
    def spoil(weights: Weights) -> None:
        weights["model.embed_tokens.weight"][381] = float("inf")

    model = edit_weights(build_uneven("qwen3", tmp_path), spoil)
    ids = IDS.clone()
    ids[2, 9] = 381
    collection = streamed(model, Chunks(ids, ("x",), (6,), "0"), CollectionRequest(score=score))
    assert collection.skipped == [3]
    assert len(collection.nll) == 5
    rest = streamed(model, CHUNKS.part([0, 1, 3, 4, 5])).matrix()
    matrix = collection.matrix()
    assert matrix.chunk_count == 5
    for name, entry in rest.entries.items():
        assert matrix.entries[name].counts.tolist() == entry.counts.tolist()
        torch.testing.assert_close(matrix.entries[name].in_sum2, entry.in_sum2)
    with pytest.raises(ImatrixError, match="no chunk can be used"):
        streamed(model, Chunks(ids[2:3], ("x",), (1,), "0"))


def _stream_until_killed(folder: Path, keeping: SnapshotPlace, steps: int) -> None:
    streamed(folder, keeping=keeping, advance=killer(steps))


def test_killed_run_goes_on_after_its_last_block(folder: Path, tmp_path: Path) -> None:
    keeping = SnapshotPlace(tmp_path / "snapshot", seconds=0.0)
    assert exit_code(_stream_until_killed, folder, keeping, 15) == -9
    steps: list[int] = []
    wanted = CollectionRequest()
    found = streamed(folder, wanted=wanted, keeping=keeping, advance=steps.append).matrix()
    assert steps[0] in (6, 12)  # two of four blocks were passed, and the state is not kept after each
    assert sum(steps) == 4 * 6
    expected = streamed(folder).matrix()
    for name, entry in expected.entries.items():
        assert torch.equal(found.entries[name].in_sum2, entry.in_sum2)
        assert found.entries[name].counts.tolist() == entry.counts.tolist()


def test_as_many_positions_as_tokens(tmp_path: Path) -> None:
    """GPT-2's embeddings of positions are no table of tokens, whatever their number."""
    model = build_uneven("gpt2", tmp_path, max_position_embeddings=384)
    tables = plan(model).shapes
    assert tables["position_embd.weight"] == tables["token_embd.weight"]
    assert_close(streamed(model).matrix(), collect(load_folder(model, "cpu"), CHUNKS, plan(model).taps).matrix())


def test_hidden_states_in_files_leave_nothing_behind(folder: Path, tmp_path: Path) -> None:
    wide = Chunks(IDS.repeat(1, 8), ("x",), (6,), "0")  # hidden states large enough to be worth a file
    stream = BlockStream(open_checkpoint(Checkpoint.from_folder(folder)), Spill(tmp_path / "hidden"))
    found = collect_streamed(stream, wide, plan(folder).taps).matrix()
    assert_close(found, streamed(folder, wide).matrix())
    assert list((tmp_path / "hidden").iterdir()) == []


def test_second_moments_have_the_sums_of_squares_on_their_diagonals(folder: Path) -> None:
    taps, stream = plan(folder).taps, BlockStream(open_checkpoint(Checkpoint.from_folder(folder)))
    found: dict[str, WeightMoments] = {}
    for step in moments_by_block(stream, CHUNKS, taps, taps, 1):
        found |= step
    assert list(found)[-1] == OUTPUT
    assert stream.weights.output.weight.is_meta
    expected = collect(load_folder(folder, "cpu"), CHUNKS, taps, CollectionRequest(process_output=True)).matrix()
    assert found.keys() == expected.entries.keys()
    for name, entry in expected.entries.items():
        seen, held_out = (moment.diagonal() for moment in found[name].of(0))
        both = (5 * seen + held_out) / 6  # one of the six chunks is held out
        torch.testing.assert_close(both.double(), entry.in_sum2[0] / len(IDS.flatten()), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])  # which multiplies what it looks up
def test_second_moments_tell_what_errors_of_lookups_cost(family: str, tmp_path: Path) -> None:
    model = build_uneven(family, tmp_path, tie_word_embeddings=True)
    weights, stream = {TOKEN_EMBEDDING}, BlockStream(open_checkpoint(Checkpoint.from_folder(model)))
    steps = list(moments_by_block(stream, CHUNKS, weights, {}, 1))  # as if there were no output layer
    seen, _ = steps[-1][TOKEN_EMBEDDING].of(0)
    loaded: Any = load_folder(model, "cpu").float()
    size, noise = 1e-3 * loaded.get_input_embeddings().weight.std(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        plain = loaded(CHUNKS.ids).logits.double().log_softmax(-1)

        def disturb(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
            scale = output.shape[-1] ** 0.5 if family == "gemma2" else 1.0
            return output + scale * size * torch.randn(output.shape, generator=noise)

        loaded.get_input_embeddings().register_forward_hook(disturb)
        disturbed = loaded(CHUNKS.ids).logits.double().log_softmax(-1)
    divergence = float((plain.exp() * (plain - disturbed)).sum(-1).mean())
    assert divergence == pytest.approx(float(size**2 * seen.trace() / 2), rel=0.15)

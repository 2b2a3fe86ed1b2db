"""Observers beside the sums of a pass: second moments, against a direct computation and against an unbroken run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from hubquant.calibration import Chunks
from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.blocks import open_checkpoint
from hubquant.convert.conversion import stream
from hubquant.models.stream import BlockStream
from hubquant.models.taps.tap import Reordered
from hubquant.observe import Collection, SnapshotPlace, collect
from hubquant.observe.streamed import collect_streamed
from hubquant.sources.checkpoint import load_folder
from tests.convert.test_llama_cpp import MODELS
from tests.observe.test_architectures import NAMES
from tests.support.conversion import Weights, build_uneven, edit_weights, plan
from tests.support.processes import exit_code, killer

CHUNKS = Chunks(torch.randint(3, 380, (20, 128), generator=torch.Generator().manual_seed(0)), ("x",), (20,), "0")
FEW = CHUNKS.part(range(4))
UNUSED = 381
SPOILT = Chunks(
    CHUNKS.ids.clone().index_put((torch.tensor(2), torch.tensor(9)), torch.tensor(UNUSED)), ("x",), (20,), "0"
)
WAYS = ("loaded", "streamed")


class Moments:
    """Σ x xᵀ of each input, float64 [n_mat, n_in, n_in]."""

    kind = "moments"

    def __init__(self) -> None:
        self.totals: dict[str, torch.Tensor] = {}
        self._batch: dict[str, torch.Tensor] = {}

    def begin(self, n_chunks: int) -> None:  # noqa: ARG002
        self._batch = {}

    def see(self, key: str, x: torch.Tensor) -> None:
        self.see_expert(key, 0, 1, x.flatten(0, -2))

    def see_expert(self, key: str, expert: int, n_experts: int, x: torch.Tensor) -> None:
        n_in = x.shape[-1]
        moments = self._batch.setdefault(key, torch.zeros(n_experts, n_in, n_in, dtype=torch.float64))
        moments[expert] += x.double().T @ x.double()

    def commit(self) -> None:
        for key, moments in self._batch.items():
            self.totals[key] = self.totals.get(key, 0) + moments
        self._batch = {}

    def state(self) -> dict[str, torch.Tensor]:
        return {key: moments.clone() for key, moments in self.totals.items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        self.totals = dict(state)


def observe(way: str, folder: Path, chunks: Chunks, moments: Moments, **more: Any) -> Collection:
    taps = plan(folder).taps
    if way == "loaded":
        return collect(load_folder(folder, "cpu"), chunks, taps, observers=[moments], **more)
    weights = open_checkpoint(Checkpoint.from_folder(folder))
    return collect_streamed(BlockStream(weights), chunks, taps, observers=[moments], **more)


def build_named(name: str, folder: Path) -> Path:
    family, config = MODELS[name]
    return build_uneven(family, folder, **config)


def squares(moments: Moments, key: str) -> torch.Tensor:
    return moments.totals[key].diagonal(dim1=1, dim2=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_uneven("qwen3", tmp_path_factory.mktemp("observed"), num_hidden_layers=3)


@pytest.mark.parametrize("way", WAYS)
def test_moments_by_their_definition(way: str, folder: Path) -> None:
    model: Any = load_folder(folder, "cpu")
    inputs: list[torch.Tensor] = []
    hook = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, x: inputs.append(x[0].double()))
    with torch.no_grad():
        model(CHUNKS.ids)
    hook.remove()
    x = inputs[0].flatten(0, 1)
    moments = Moments()
    observe(way, folder, CHUNKS, moments)
    torch.testing.assert_close(moments.totals["blk.1.ffn_down.weight"][0], x.T @ x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "llama4", "deepseek3", "mamba", "qwen3_5"])
@pytest.mark.parametrize("way", WAYS)
def test_all_observers_see_the_same(way: str, name: str, tmp_path: Path) -> None:
    """Whatever the tap: the squares on the diagonals are those that are summed, in the order of the weight."""
    moments = Moments()
    collection = observe(way, build_named(name, tmp_path), FEW, moments)
    entries = collection.matrix().entries
    assert moments.totals.keys() == set(collection.keys.values())
    for weight, key in collection.keys.items():
        order = collection.taps[weight].order()
        found = squares(moments, key)
        torch.testing.assert_close(
            found if order is None else found[:, order], entries[weight].in_sum2, rtol=1e-5, atol=1e-9
        )


def test_a_chunk_left_out_is_left_out_of_all(folder: Path) -> None:
    model: Any = load_folder(folder, "cpu")
    model.get_input_embeddings().weight[UNUSED] = torch.inf
    moments = Moments()
    collection = collect(model, SPOILT, plan(folder).taps, observers=[moments])
    check_left_out(collection, moments)


def test_a_streamed_chunk_left_out_is_left_out_of_all(tmp_path: Path) -> None:
    def spoil(weights: Weights) -> None:
        weights["model.embed_tokens.weight"][UNUSED] = torch.inf

    moments = Moments()
    collection = observe("streamed", edit_weights(build_uneven("qwen3", tmp_path), spoil), SPOILT, moments)
    check_left_out(collection, moments)


def check_left_out(collection: Collection, moments: Moments) -> None:
    assert collection.skipped == [3]
    for weight, entry in collection.matrix().entries.items():
        assert entry.counts.tolist() == [19 * 128]
        torch.testing.assert_close(squares(moments, collection.keys[weight]), entry.in_sum2, rtol=1e-5, atol=1e-9)


def _observe_until_killed(way: str, folder: Path, snapshot: Path, steps: int) -> None:
    keeping = SnapshotPlace(snapshot, seconds=0.0)
    observe(way, folder, CHUNKS, Moments(), keeping=keeping, advance=killer(steps))


@pytest.mark.parametrize(("way", "stop", "kept"), [("loaded", 17, (16,)), ("streamed", 50, (20, 40))])
def test_all_observers_go_on_with_the_same_bits(
    way: str, stop: int, kept: tuple[int, ...], folder: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshot"
    assert exit_code(_observe_until_killed, way, folder, snapshot, stop) == -9
    steps: list[int] = []
    whole, found = Moments(), Moments()
    expected = observe(way, folder, CHUNKS, whole).matrix()
    matrix = observe(way, folder, CHUNKS, found, keeping=SnapshotPlace(snapshot), advance=steps.append).matrix()
    assert steps[0] in kept
    assert found.totals.keys() == whole.totals.keys()
    assert all(torch.equal(moments, whole.totals[key]) for key, moments in found.totals.items())
    for name, entry in expected.entries.items():
        assert torch.equal(matrix.entries[name].in_sum2, entry.in_sum2)


def test_other_observers_go_on_from_nothing(folder: Path, tmp_path: Path) -> None:
    keeping, model, taps = (
        SnapshotPlace(tmp_path / "snapshot", seconds=0.0),
        load_folder(folder, "cpu"),
        plan(folder).taps,
    )
    batches: list[Collection] = []
    for observers, run in (([], 1), ([], 0), ([Moments()], 1), ([Moments()], 0), ([Moments(), Moments()], 1)):
        collect(model, FEW, taps, observers=observers, keeping=keeping, watch=batches.append)
        assert len(batches) == run
        batches.clear()


@pytest.mark.slow
def test_orders_are_those_of_the_weights(tmp_path: Path) -> None:
    """Where columns change places, a weight and its inputs give what they gave in transformers."""
    reordering = set()
    for name in NAMES:
        folder = build_named(name, tmp_path / name)
        conversion = plan(folder)
        orders = {weight: (tap, tap.order()) for weight, tap in conversion.taps.items() if isinstance(tap, Reordered)}
        for weight, (tap, order) in orders.items():
            reordering.add(name)
            x = torch.randn(3, len(order), generator=torch.Generator().manual_seed(0))
            assert not torch.equal(order, torch.arange(len(order)))
            assert torch.equal(torch.cat(list(tap.operation.forward([x]))), x[:, order])
            checkpoint = Checkpoint.from_folder(folder)
            (converted,) = (w for each, w in stream(conversion, checkpoint) if each == weight)
            torch.testing.assert_close(x[:, order] @ converted.T, x @ checkpoint.read(f"{tap.module}.weight").T)
    assert reordering == {"qwen3_5", "qwen3_5_moe"}

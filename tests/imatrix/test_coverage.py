"""What a calibration did not reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hubquant.errors import ImatrixError
from hubquant.imatrix import Entry, ImportanceMatrix, load_imatrix, merge, save
from hubquant.imatrix.coverage import ESTIMATED, coverage, with_estimates, without_estimates

UP, DOWN, GATE = (f"blk.0.ffn_{part}.weight" for part in ("up_exps", "down_exps", "gate_inp"))


def experts(counts: list[int], n_in: int = 4) -> Entry:
    generator = torch.Generator().manual_seed(sum(counts) + n_in)
    number = torch.tensor(counts)
    sums = torch.rand(len(counts), n_in, generator=generator, dtype=torch.float64) * number[:, None]
    return Entry(sums, number, sums / 2)


def test_experts_and_weights_without_data_are_named() -> None:
    made = ImportanceMatrix({UP: experts([0, 640, 5, 0])}, ("x",), 16, 40)
    found = coverage(made, [UP, DOWN])
    assert (found.unseen, found.few, found.missing) == ({UP: (0, 3)}, {UP: (2,)}, (DOWN,))
    notes = found.notes()
    assert notes[0] == f"2 experts saw no token: {UP} 0, 3"
    assert notes[1].startswith("1 expert saw fewer than 100 tokens")
    assert DOWN in notes[2]
    assert coverage(ImportanceMatrix({UP: experts([640, 100])}, ("x",), 16, 40), [UP]).notes() == []


def test_estimates_pool_the_layer_and_are_marked(tmp_path: Path) -> None:
    seen = experts([0, 640, 160, 0])
    made = ImportanceMatrix({UP: seen, "blk.1.ffn_up.weight": experts([9])}, ("x",), 16, 40)
    shapes = {UP: (4, 8, 4), GATE: (8, 4), DOWN: (4, 4, 8), "blk.1.ffn_up.weight": (8, 4)}
    full = with_estimates(made, shapes)
    mean = seen.in_sum2.sum(0) / 800
    importance = full.importance(UP)
    assert importance is not None
    torch.testing.assert_close(importance[0], mean.float())
    torch.testing.assert_close(importance[3], mean.float())
    assert full.entries[UP].counts.tolist() == [1, 640, 160, 1]
    assert torch.equal(full.entries[UP].in_sum2[1], seen.in_sum2[1])
    of_gate = full.importance(GATE)
    assert of_gate is not None
    torch.testing.assert_close(of_gate, mean.float())  # the layer's only input of four columns
    assert DOWN not in full.entries  # nothing in the layer has eight
    assert json.loads(full.provenance[ESTIMATED]) == {UP: [0, 3], GATE: []}
    save(full, tmp_path / "full.gguf")
    back = without_estimates(load_imatrix(tmp_path / "full.gguf"))
    assert back.entries.keys() == made.entries.keys()
    assert back.entries[UP].counts.tolist() == [0, 640, 160, 0]
    torch.testing.assert_close(back.entries[UP].in_sum2, seen.in_sum2, rtol=1e-12, atol=0)
    assert ESTIMATED not in back.provenance


@pytest.mark.parametrize("mark", ["", "[]", '{"a": [-1]}', '{"a": "b"}'])
def test_damaged_marks(mark: str) -> None:
    made = ImportanceMatrix({UP: experts([5, 7])}, ("x",), 16, 40, {ESTIMATED: mark})
    with pytest.raises(ImatrixError, match="damaged"):
        without_estimates(made)


def test_nothing_is_estimated_where_all_was_seen() -> None:
    made = ImportanceMatrix({UP: experts([5, 7])}, ("x",), 16, 40)
    assert with_estimates(made, {UP: (2, 8, 4)}) is made
    assert without_estimates(made) is made


def test_merging_estimates_from_what_all_saw() -> None:
    first, second = experts([0, 640]), experts([32, 64])
    parts = [with_estimates(ImportanceMatrix({UP: entry}, ("x",), 16, 40)) for entry in (first, second)]
    merged = merge([parts[0], *parts[1:]])
    assert merged.entries[UP].counts.tolist() == [32, 704]
    assert torch.equal(merged.entries[UP].in_sum2, first.in_sum2 + second.in_sum2)
    assert ESTIMATED not in merged.provenance

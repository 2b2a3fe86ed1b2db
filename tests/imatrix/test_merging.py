from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hubquant.calibration import Chunks, build
from hubquant.errors import ImatrixError
from hubquant.imatrix import Entry, ImportanceMatrix, load_imatrix, merge, save
from hubquant.models import load_tokenizer
from hubquant.models.tiny import build as build_model
from hubquant.observe import collect
from hubquant.recipe.schema import TextSource
from hubquant.sources.checkpoint import load_folder
from tests.support.conversion import plan


def entry(sums: list[list[float]], counts: list[int], signed: bool = True) -> Entry:
    in_sum2 = torch.tensor(sums, dtype=torch.float64)
    return Entry(in_sum2, torch.tensor(counts), in_sum2 * -2 if signed else None)


def matrix(entries: dict[str, Entry], datasets: tuple[str, ...] = ("a",), chunk_size: int = 4) -> ImportanceMatrix:
    return ImportanceMatrix(entries, datasets, chunk_size, 1)


def test_merge_adds_what_both_have() -> None:
    first = matrix({"p": entry([[1, 2]], [4]), "q": entry([[5, 5]], [4])})
    second = matrix({"p": entry([[10, 20]], [8], signed=False), "r": entry([[7, 7]], [8])}, ("b", "a"))
    third = matrix({"p": entry([[100, 200]], [4])}, ("c",))
    merged = merge([first, second, third])
    assert merged.entries["p"].in_sum2.tolist() == [[111, 222]]
    assert merged.entries["p"].counts.tolist() == [16]
    assert merged.entries["p"].in_sum is None
    assert merged.entries["q"].in_sum is not None
    assert merged.entries.keys() == {"p", "q", "r"}
    assert (merged.datasets, merged.chunk_count) == (("a", "b", "c"), 4)


def test_a_single_count_stands_for_all_experts() -> None:
    flat = matrix({"exps": entry([[1, 2, 3, 4]], [8])})
    by_expert = matrix({"exps": entry([[10, 20], [30, 40]], [3, 0])})
    for merged in (merge([flat, by_expert]), merge([by_expert, flat])):
        assert merged.entries["exps"].in_sum2.tolist() == [[11, 22], [33, 44]]
        assert merged.entries["exps"].counts.tolist() == [11, 8]


def test_merge_of_different_models() -> None:
    of_one = matrix({"p": entry([[1, 2]], [4])})
    with pytest.raises(ImatrixError, match=r"p has different sizes: \[1, 3\] in matrix 3 and \[1, 2\] before"):
        merge([of_one, of_one, matrix({"p": entry([[1, 2, 3]], [4])})])
    with pytest.raises(ImatrixError, match="chunk sizes: 4 tokens in matrix 1 and 8 in matrix 2"):
        merge([matrix({}), matrix({}, chunk_size=8)])


def test_provenance_of_a_merge() -> None:
    def of(**facts: str) -> ImportanceMatrix:
        return replace(matrix({}), provenance=facts)

    first = of(model_revision="abc", version="1", calibration_sha256="x")
    assert merge([first, of(model_revision="abc", version="1", calibration_sha256="y")]).provenance == {
        "model_revision": "abc",
        "version": "1",
    }
    assert merge([first, of(version="1")]).provenance == {"version": "1"}
    with pytest.raises(ImatrixError, match="model_revision is abc in matrix 1 and def in matrix 3"):
        merge([first, of(version="1"), of(model_revision="def", version="2")])


def test_weights() -> None:
    first, second = matrix({"p": entry([[6, 12]], [6])}), matrix({"p": entry([[8, 8]], [4]), "q": entry([[5, 0]], [1])})
    doubled = merge([first, second], [2, 1])
    assert doubled.entries["p"].in_sum2.tolist() == [[20, 32]]
    assert doubled.entries["p"].counts.tolist() == [16]
    assert doubled.chunk_count == 4
    assert doubled.entries["p"].in_sum is not None
    assert doubled.entries["p"].in_sum.tolist() == [[-40, -64]]


def test_counts_stay_whole_and_means_what_they_are() -> None:
    first, second = matrix({"p": entry([[6, 12]], [5])}), matrix({"p": entry([[8, 8]], [4]), "q": entry([[5, 0]], [1])})
    weighted = merge([first, second], [0.5, 0.3])
    assert weighted.entries["p"].counts.tolist() == [4]  # of 3.7
    torch.testing.assert_close(
        weighted.entries["p"].in_sum2 / 4,
        torch.tensor([[3 + 2.4, 6 + 2.4]], dtype=torch.float64) / 3.7,
        rtol=1e-12,
        atol=0,
    )
    assert weighted.entries["q"].counts.tolist() == [1]  # of 0.3: what was seen stays seen
    torch.testing.assert_close(weighted.entries["q"].in_sum2, torch.tensor([[5.0, 0.0]]).double(), rtol=1e-12, atol=0)
    for wrong in ([1, 0], [1, -1], [1, float("nan")]):
        with pytest.raises(ValueError, match="must be positive"):
            merge([first, second], wrong)
    for number in (1, 3):
        with pytest.raises(ValueError, match="zip"):
            merge([first, second], [1.0] * number)


def test_shards_on_disk_add_up_to_the_whole(tmp_path: Path) -> None:
    """A collection in three parts, saved, loaded, merged and saved again, against the one that saw everything."""
    folder = build_model("llama", tmp_path / "model")
    taps = plan(folder).taps
    whole = build([TextSource(bundled="test")], load_tokenizer(folder), 256, 20, 0)
    model = load_folder(folder, "cpu")
    save(collect(model, whole, taps).matrix(), tmp_path / "whole.gguf")
    # in whole batches of 8 chunks, so that the forward passes are the same
    for number, part in enumerate((slice(0, 8), slice(8, 16), slice(16, 20))):
        ids = whole.ids[part]
        save(collect(model, Chunks(ids, whole.datasets, (len(ids),), "x"), taps).matrix(), tmp_path / f"{number}.gguf")
    first, *others = (load_imatrix(tmp_path / f"{number}.gguf") for number in range(3))
    save(merge([first, *others]), tmp_path / "merged.gguf")
    merged, expected = (load_imatrix(tmp_path / f"{name}.gguf") for name in ("merged", "whole"))
    assert (merged.datasets, merged.chunk_count) == (expected.datasets, expected.chunk_count) == (whole.datasets, 20)
    assert merged.entries.keys() == expected.entries.keys()
    for name, entry in expected.entries.items():
        found = merged.entries[name]
        assert found.counts.tolist() == entry.counts.tolist()
        torch.testing.assert_close(found.in_sum2, entry.in_sum2, rtol=1e-12, atol=0)
        assert found.in_sum is not None
        assert entry.in_sum is not None
        # Σx cancels; |Σx| ≤ √(n Σx²) is what it is measured by
        scale = (entry.in_sum2 * entry.counts[:, None]).sqrt()
        assert float(((found.in_sum - entry.in_sum).abs() / scale).max()) < 1e-12


def test_pictures_and_calls_add_up() -> None:
    """Rows are no measure of pictures: each makes as many as its size gives."""
    facts = {"denoiser_calls": "8", "predictions": "16", "scheduler": "Euler"}
    first = ImportanceMatrix({"p": entry([[1, 2]], [64])}, (), 1, 4, facts)
    second = ImportanceMatrix({"p": entry([[4, 6]], [256])}, (), 1, 2, {**facts, "denoiser_calls": "3"})
    merged = merge([first, second])
    assert merged.chunk_count == 6
    assert merged.provenance == {"denoiser_calls": "11", "predictions": "32", "scheduler": "Euler"}
    assert merge([first, second], [1, 2]).provenance["denoiser_calls"] == "14"
    assert "denoiser_calls" not in merge([first, replace(second, provenance={})]).provenance

from __future__ import annotations

import math

import pytest
import torch

from hubquant.imatrix import Entry, ImportanceMatrix, difference, difference_table


def entry(sums: list[list[float]], counts: list[int]) -> Entry:
    return Entry(torch.tensor(sums, dtype=torch.float64), torch.tensor(counts))


def matrix(entries: dict[str, Entry], chunk_size: int = 4, **provenance: str) -> ImportanceMatrix:
    return ImportanceMatrix(entries, ("a",), chunk_size, 1, provenance)


def test_a_matrix_and_itself() -> None:
    made = matrix(
        {"p": entry([[1, 2]], [4]), "zero": entry([[0, 0]], [4]), "unseen": entry([[0, 0]], [0])}, version="1"
    )
    found = difference(made, made)
    assert found.within(0)
    assert found.facts == {}
    assert [(row.relative, row.counts) for row in found.entries] == [(0, 0)] * 3
    assert [row.similarity for row in found.entries] == [pytest.approx(1), None, None]
    assert difference_table(found, 0).splitlines()[0] == (
        "3 weights in both: 0 differ, the largest relative difference is 0"
    )


def test_what_differs() -> None:
    same, a_only, b_only = entry([[1, 1]], [1]), entry([[1]], [1]), entry([[2]], [1])
    first = {"same": same, "a": a_only, "p": entry([[3, 4]], [1]), "q": entry([[3, 4]], [1]), "size": entry([[1]], [1])}
    second = {
        "same": same,
        "b": b_only,
        "p": entry([[6, 8.002]], [2]),
        "q": entry([[4, 3]], [1]),
        "size": entry([[1, 2]], [1]),
    }
    found = difference(matrix(first, version="1"), matrix(second, 8, version="2", model_revision="x"))
    assert (found.only_first, found.only_second) == (("a",), ("b",))
    assert found.facts == {"chunk_size": (4, 8), "version": ("1", "2"), "model_revision": (None, "x")}
    size, q, p, unchanged = found.entries
    assert (size.name, size.sizes, size.relative) == ("size", ((1, 1), (1, 2)), None)
    assert (q.name, q.counts) == ("q", 0)
    assert q.relative == pytest.approx(math.sqrt(2) / 5)
    assert q.similarity == pytest.approx(24 / 25)
    assert (p.name, p.rows, p.counts) == ("p", (1, 2), 0.5)
    assert p.relative == pytest.approx(0.001 / math.hypot(3, 4.001))
    assert unchanged.name == "same"
    assert [row.name for row in found.differing(0)] == ["size", "q", "p"]
    assert [row.name for row in found.differing(0.4)] == ["size", "p"]
    assert [row.name for row in found.differing(0.5)] == ["size"]
    assert not found.within(1)
    text = difference_table(found, 0)
    for line in ("only in A: a", "only in B: b", "model_revision: nothing in A, x in B", "chunk_size: 4 in A, 8 in B"):
        assert line in text.splitlines()
    assert "1 × 1 and 1 × 2" in text


def test_experts_that_one_of_them_never_saw() -> None:
    first = matrix({"exps": entry([[2, 2], [4, 4], [0, 0]], [2, 1, 0])})
    second = matrix({"exps": entry([[2, 2], [0, 0], [9, 9]], [2, 0, 3])})
    (row,) = difference(first, second).entries
    assert (row.relative, row.counts, row.rows) == (0, 1, (3, 5))
    flat = matrix({"exps": entry([[2, 2, 4, 4, 6, 6]], [2])})
    (row,) = difference(flat, first).entries
    assert row.sizes == ((1, 6), (3, 2))
    assert row.relative == pytest.approx(2 * math.sqrt(2) / math.sqrt(34))

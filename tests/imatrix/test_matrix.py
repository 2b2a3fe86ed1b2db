from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hubquant.errors import ImatrixError
from hubquant.imatrix import Entry, ImportanceMatrix, facts_table, statistics, statistics_table


def entry(sums: list[list[float]], counts: list[int], signed: bool = True) -> Entry:
    in_sum2 = torch.tensor(sums, dtype=torch.float64)
    return Entry(in_sum2, torch.tensor(counts), in_sum2 * -2 if signed else None)


def matrix(entries: dict[str, Entry], datasets: tuple[str, ...] = ("a",), chunk_size: int = 4) -> ImportanceMatrix:
    return ImportanceMatrix(entries, datasets, chunk_size, 1)


def test_importance() -> None:
    made = matrix({"exps": entry([[2, 3], [9, 9]], [3, 0]), "dense": entry([[1, 2]], [3])})
    by_expert, dense = made.importance("exps"), made.importance("dense")
    assert by_expert is not None
    assert dense is not None
    expected = np.array([2, 3], np.float32) / np.float32(3)
    assert by_expert.dtype == dense.dtype == torch.float32
    assert by_expert.tolist() == [expected.tolist(), [1.0, 1.0]]
    assert dense.shape == (2,)
    assert made.importance("absent") is None


def test_fit_to_a_model() -> None:
    made = matrix({f"blk.{i}.{t}.weight": entry([[1.0] * 8], [4]) for i in (0, 1) for t in ("q", "k")})
    shapes = {f"blk.{i}.{t}.weight": (16, 8) for i in (0, 1) for t in ("q", "k")} | {"blk.0.norm.weight": (8,)}
    assert made.fit(shapes | {"blk.1.v.weight": (4, 8), "output.weight": (99, 8)}).entries == made.entries
    with pytest.raises(ImatrixError, match=r"blk\.1\.k\.weight has 8 columns there and 16 in the model \(1 of 4"):
        made.fit(shapes | {"blk.1.k.weight": (16, 16)})
    with pytest.raises(ImatrixError, match=r"it has blk\.1\.q\.weight, and the model has no such block"):
        made.fit({"blk.0.q.weight": (16, 8), "blk.0.k.weight": (16, 8)})
    with pytest.raises(ImatrixError, match=r"it has blk\.0\.q\.weight, and the model has no such weight"):
        made.fit({"blk.0.ssm_in.weight": (16, 8), "blk.1.ssm_in.weight": (16, 8)})
    with pytest.raises(ImatrixError, match="it has nothing"):
        matrix({}).fit(shapes)


def test_fit_gives_every_matrix_its_row() -> None:
    rows = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    flat = matrix({"exps": entry([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]], [4]), "dense": entry([[1.0, 2.0]], [4])})
    by_expert = matrix({"exps": entry(rows, [1, 0, 3])})
    shapes = {"exps": (3, 7, 2), "dense": (7, 2)}
    fitted = flat.fit(shapes)
    assert fitted.entries["exps"].in_sum2.tolist() == rows
    assert fitted.entries["exps"].counts.tolist() == [4, 4, 4]
    assert fitted.entries["dense"].counts.tolist() == [4]
    assert by_expert.fit(shapes).entries["exps"].counts.tolist() == [1, 0, 3]
    with pytest.raises(ImatrixError, match="exps has 3 × 2 columns there and 4 × 2 in the model"):
        by_expert.fit(shapes | {"exps": (4, 7, 2)})
    with pytest.raises(ImatrixError, match="exps has 6 columns there and 4 × 2 in the model"):
        flat.fit(shapes | {"exps": (4, 7, 2)})


def test_selection_by_parts_of_names() -> None:
    made = matrix(
        {f"blk.{i}.{t}.weight": entry([[1.0]], [1]) for i in (0, 1) for t in ("attn_v", "ffn_up", "ffn_down")}
    )
    assert made.select().entries == made.entries
    assert [*made.select(include=["attn_v", "1.ffn_up"]).entries] == [
        "blk.0.attn_v.weight",
        "blk.1.attn_v.weight",
        "blk.1.ffn_up.weight",
    ]
    assert [*made.select(exclude=["ffn", "0.attn"]).entries] == ["blk.1.attn_v.weight"]


def test_statistics() -> None:
    random = np.random.default_rng(0)
    sums = {
        "blk.0.ffn_up.weight": random.lognormal(size=(1, 48)),
        "blk.1.ffn_up.weight": random.lognormal(size=(1, 48)),
        "blk.1.ffn_down_exps.weight": random.lognormal(size=(3, 16)) * 100,
        "blk.2.ffn_up.weight": random.lognormal(size=(1, 32)),
        "output.weight": random.lognormal(size=(1, 48)),
    }
    sums["blk.1.ffn_up.weight"][0, :5] = 0
    counts = {name: np.full(len(x), 500) for name, x in sums.items()}
    counts["blk.1.ffn_down_exps.weight"] = np.array([300, 0, 200])
    entries = {n: Entry(torch.from_numpy(x), torch.from_numpy(counts[n])) for n, x in sums.items()}
    unseen = {"blk.0.unseen.weight": Entry(torch.zeros(1, 4, dtype=torch.float64), torch.tensor([0]))}
    found = statistics(matrix(entries | unseen))

    assert [(row.tensor, row.layer) for row in found.tensors] == sorted(
        ((row.tensor, row.layer) for row in found.tensors),
        key=lambda key: (key[0], -next(r.total for r in found.tensors if (r.tensor, r.layer) == key)),
    )
    assert {row.name for row in found.tensors} == set(sums)
    for row in found.tensors:
        seen = counts[row.name] > 0
        a = (sums[row.name][seen] / counts[row.name][seen, None]).ravel()
        p = a[a > 0] / a.sum()
        entropy = float(-np.sum(p * np.log2(p)))
        expected = {
            "total": a.sum(),
            "minimum": a.min(),
            "maximum": a.max(),
            "mean": a.mean(),
            "deviation": a.std(),
            "active": np.mean(a > 1e-5),
            "n": a.size,
            "entropy": entropy,
            "entropy_norm": entropy / math.log2(a.size),
            "zd": np.mean((a - a.mean()) / a.std() > 1),
        }
        assert {key: getattr(row, key) for key in expected} == pytest.approx(expected, rel=1e-9)
    rows = {row.name: row for row in found.tensors}
    x, y = sums["blk.0.ffn_up.weight"][0], sums["blk.1.ffn_up.weight"][0]
    assert rows["blk.1.ffn_up.weight"].active == pytest.approx(43 / 48)
    assert rows["blk.1.ffn_up.weight"].similarity == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)))
    assert rows["blk.0.ffn_up.weight"].similarity == rows["blk.2.ffn_up.weight"].similarity == 0
    assert rows["output.weight"].layer is None

    assert [layer.layer for layer in found.layers] == [0, 1, 2]
    up, down = rows["blk.1.ffn_up.weight"], rows["blk.1.ffn_down_exps.weight"]
    assert found.layers[1].total == pytest.approx((48 * up.total + 32 * down.total) / 80)
    assert found.layers[1].zd == pytest.approx((48 * up.zd + 32 * down.zd) / 80)
    assert found.layers[1].similarity == pytest.approx(48 * up.similarity / 80)

    lines = statistics_table(found).splitlines()
    assert len(lines) == 2 + 5 + 1 + 2 + 3
    assert lines[2].split()[:3] == ["1", "ffn_down_exps", f"{down.total:.2f}"]
    assert found.as_dict()["tensors"][0]["name"] == "blk.1.ffn_down_exps.weight"


def test_statistics_of_degenerate_entries() -> None:
    made = matrix({"blk.0.zero.weight": entry([[0, 0]], [5]), "blk.0.one.weight": entry([[3]], [5])})
    one, zero = statistics(made).tensors
    assert (zero.entropy, zero.zd, zero.active) == (0, 0, 0)
    assert (one.entropy_norm, one.deviation, one.active) == (0, 0, 1)


def test_long_facts_stand_on_one_line() -> None:
    made = ImportanceMatrix({}, (), 4, 1, {"pooled": "blk.0.ffn_up_exps.weight\n" * 20})
    lines = facts_table(made).splitlines()
    assert lines[0] == "datasets  unknown"
    assert len(lines) == 4
    assert lines[3].startswith("pooled    blk.0.ffn_up_exps.weight blk.0")
    assert lines[3].endswith("…")

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from hubquant.convert.head_order import InterleaveHalves, PairsByAxis, TileHeads, Ungroup
from hubquant.convert.operations import Fork, NegativeExp, Scale


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 3), st.sampled_from([torch.float32, torch.bfloat16]))
def test_interleaving_is_undone_bit_for_bit(heads: int, half: int, columns: int, dtype: torch.dtype) -> None:
    shape = (heads * 2 * half, columns) if columns else (heads * 2 * half,)  # a weight or a bias
    x = torch.randn(shape).to(dtype)
    operation = InterleaveHalves(heads)
    there = operation.there(x)
    assert there.shape == x.shape
    assert there.dtype == dtype
    assert torch.equal(operation.back(there), x)
    assert torch.equal(operation.there(operation.back(x)), x)


def test_rotated_pairs_come_together() -> None:
    heads, size = 3, 8
    x = torch.arange(heads * size).view(heads, size)
    pairs = InterleaveHalves(heads).there(x.view(-1, 1)).view(heads, size // 2, 2)
    assert torch.equal(pairs[..., 0], x[:, : size // 2])
    assert torch.equal(pairs[..., 1], x[:, size // 2 :])


def test_pairs_come_apart_by_axis() -> None:
    x = torch.arange(2 * 12)  # of each head, the pairs (0, 1), (4, 5), (8, 9) belong to the first axis
    there = PairsByAxis(2).there(x)
    assert there[:12].tolist() == [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]
    assert torch.equal(PairsByAxis(2).back(there), x)


@given(st.lists(st.floats(-8, 8, width=32), min_size=1), st.sampled_from([torch.float32, torch.bfloat16]))
def test_decays_come_back_as_logarithms(logarithms: list[float], dtype: torch.dtype) -> None:
    x = torch.tensor(logarithms).to(dtype)
    there = NegativeExp().there(x)
    assert there.dtype == torch.float32
    assert torch.allclose(there.double(), -x.double().exp(), rtol=2**-24, atol=0)
    back = NegativeExp().back(there)
    assert (back.double() - x.double()).abs().max() <= 2**-22


@given(st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 3))
def test_parts_of_groups_come_together(groups: int, sizes: list[int], columns: int) -> None:
    x = torch.randn(groups * sum(sizes), columns)
    operation = Ungroup(groups, tuple(sizes))
    there = operation.there(x)
    assert torch.equal(operation.back(there), x)
    whole = x.view(groups, sum(sizes), columns)
    assert torch.equal(there[: groups * sizes[0]], whole[:, : sizes[0]].reshape(-1, columns))
    assert torch.equal(there[-groups * sizes[-1] :], whole[:, -sizes[-1] :].reshape(-1, columns))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.sampled_from([0, 1]), st.integers(0, 3))
def test_heads_that_share_a_key_lie_apart(groups: int, each: int, size: int, axis: int, start: int) -> None:
    length = start + groups * each * size
    x = torch.arange(2 * length).view((length, 2) if axis == 0 else (2, length))
    operation = TileHeads(groups, groups * each, axis, start)
    there = operation.there(x)
    assert torch.equal(operation.back(there), x)
    for head in range(groups * each):
        group, member = divmod(head, each)
        source, target = start + head * size, start + (member * groups + group) * size
        assert torch.equal(there.narrow(axis, target, size), x.narrow(axis, source, size))


def test_scales_go_by_rows() -> None:
    x = torch.ones(6, 2, dtype=torch.bfloat16)
    assert Scale((2.0, 3.0), (4, 2)).there(x)[:, 0].tolist() == [2, 2, 2, 2, 3, 3]
    assert Scale((1.0,)).there(x).dtype == torch.bfloat16
    two, three = Fork((Scale((2.0,)), Scale((3.0,)))).forward([x])
    assert torch.equal(two, 2 * x.float())
    assert torch.equal(three, 3 * x.float())

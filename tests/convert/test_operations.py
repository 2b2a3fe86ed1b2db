from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from hubquant.convert.operations import InterleaveHalves, NegativeExp


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


@given(st.lists(st.floats(-8, 8, width=32), min_size=1), st.sampled_from([torch.float32, torch.bfloat16]))
def test_decays_come_back_as_logarithms(logarithms: list[float], dtype: torch.dtype) -> None:
    x = torch.tensor(logarithms).to(dtype)
    there = NegativeExp().there(x)
    assert there.dtype == torch.float32
    assert torch.allclose(there.double(), -x.double().exp(), rtol=2**-24, atol=0)
    back = NegativeExp().back(there)
    assert (back.double() - x.double()).abs().max() <= 2**-22

"""Error feedback for the weights of a file: where it is done, and what is kept of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hubquant.backends.gguf.feedback import Factors, Journal, fits, read_rounded, rounded_with_feedback
from hubquant.observe.moment_sums import MomentSum
from hubquant.observe.moments import WeightMoments
from hubquant.quants import dequantize, weighted_error


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
)
def test_weights_are_rounded_where_their_moments_are(device: str, tmp_path: Path) -> None:
    x = 0.05 * torch.randn(120, 512, generator=torch.Generator().manual_seed(3))
    sums = [MomentSum.zeros(1, torch.empty(512, device=device)) for _ in range(2)]
    make = torch.Generator().manual_seed(0)
    directions = torch.randn(50, 512, generator=make)
    for each in sums:
        each.add(0, (torch.randn(2000, 50, generator=make) @ directions).to(device))
    moments = WeightMoments(sums[:1], sums[1:], None)
    assert moments.of(0)[0].device.type == device
    factors, journal = Factors(1), Journal({tmp_path: {"ffn_down": "Q5_0"}})
    data = rounded_with_feedback("ffn_down", 0, x, "Q5_0", None, moments, factors, journal, 1)
    assert factors.of(moments, 0, "Q5_0")[0].device_for("Q5_0").type == device
    (rounded,) = read_rounded(tmp_path)
    assert rounded.is_kept
    error = weighted_error(x, dequantize(data, "Q5_0", 512), moments.of(0)[1].cpu())
    assert error == pytest.approx(rounded.feedback, rel=1e-6)


def test_moments_stay_on_a_gpu_that_has_room_for_their_factors() -> None:
    gib = 1 << 30
    assert fits(4096, 8 * gib)
    assert not fits(14336, 8 * gib)
    assert fits(14336, 16 * gib)
    assert not fits(512, 4 * gib)

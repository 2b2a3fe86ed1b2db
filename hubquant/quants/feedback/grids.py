"""The types whose weights are rounded one by one, and how their scales are searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.feedback import stored
from hubquant.quants.feedback.kernels import columns, descent
from hubquant.quants.feedback.stored import Storage

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Grid:
    """``group`` columns share a scale; ``levels`` are the lowest one, how many more there are and how far apart, which
    means nothing to kernels with levels of their own. ``kind`` names the kernels. ``scales`` and ``minima`` are the
    ranges of whole ones.

    So many scales to each side of the first guess are tried, ``reach``, and with each so many minima, ``low_reach``;
    real ones are ``apart``, as a share of themselves. ``sweeps`` of coordinate descent follow.
    """

    group: int
    levels: tuple[float, float, float]
    kind: str
    storage: Storage
    scales: tuple[float, float] = (0, 0)
    minima: tuple[float, float] = (0, 0)
    reach: int = 2
    low_reach: int = 0
    apart: float = 0.0
    sweeps: int = 3

    @property
    def round(self) -> Kernel:
        kernel: Kernel = getattr(columns, self.kind)
        return kernel

    @property
    def descend(self) -> Kernel:
        kernel: Kernel = getattr(descent, self.kind)
        return kernel

    @property
    def has_minima(self) -> bool:
        return self.low_reach > 0

    @property
    def limits(self) -> Array:
        """As the kernels take them."""
        low, count, distance = self.levels
        return np.array([low, count, distance, 1 / distance, *self.scales, *self.minima, self.apart], np.float32)


_IQ4 = (0, 15, 1)
_D = (stored.read_d, stored.d_numbers)
_Q4_K = Grid(
    32,
    (0, 15, 1),
    "whole",
    Storage(stored.read_six_bits, stored.six_bit_numbers, stored.counted(0)),
    scales=(0, 63),
    minima=(0, 63),
    reach=3,
    low_reach=3,
)
_Q4_1 = Grid(
    32,
    (0, 15, 1),
    "half",
    Storage(stored.read_line, stored.line_numbers, stored.counted(0)),
    reach=3,
    low_reach=3,
    apart=0.02,
)

GRIDS: Mapping[str, Grid] = MappingProxyType(
    {
        "Q2_K": Grid(
            16,
            (0, 3, 1),
            "whole",
            Storage(stored.read_q2_k, stored.q2_k_numbers, stored.counted(0)),
            scales=(0, 15),
            minima=(0, 15),
            low_reach=2,
        ),
        "Q3_K": Grid(
            16,
            (-4, 7, 1),
            "whole",
            Storage(stored.read_q3_k, stored.q3_k_numbers, stored.counted(-4)),
            scales=(-32, 31),
        ),
        "Q4_K": _Q4_K,
        "Q5_K": replace(_Q4_K, levels=(0, 31, 1)),
        "Q6_K": Grid(
            16,
            (-32, 63, 1),
            "whole",
            Storage(stored.read_q6_k, stored.q6_k_numbers, stored.counted(-32)),
            scales=(-128, 127),
        ),
        "IQ4_XS": Grid(
            32,
            _IQ4,
            "whole_iq4",
            Storage(stored.read_iq4_xs, stored.iq4_xs_numbers, stored.iq4_codes),
            scales=(-32, 31),
        ),
        "Q4_0": Grid(32, (-8, 15, 1), "half", Storage(*_D, stored.counted(-8)), reach=6, apart=0.02),
        "Q4_1": _Q4_1,
        "Q5_0": Grid(32, (-16, 31, 1), "half", Storage(*_D, stored.counted(-16)), reach=6, apart=0.01),
        "Q5_1": replace(_Q4_1, levels=(0, 31, 1), apart=0.01),
        "Q8_0": Grid(32, (-127, 254, 1), "half", Storage(*_D, stored.counted(-127)), reach=6, apart=0.002),
        "IQ4_NL": Grid(32, _IQ4, "half_iq4", Storage(*_D, stored.iq4_codes), reach=6, apart=0.02),
        **dict.fromkeys(
            ("TQ1_0", "TQ2_0"), Grid(256, (-1, 2, 1), "half", Storage(*_D, stored.counted(-1)), reach=6, apart=0.03)
        ),
        "Q1_0": Grid(128, (-1, 1, 2), "half", Storage(*_D, stored.counted(-1, 2)), reach=6, apart=0.03, sweeps=6),
        "Q2_0": Grid(64, (-1, 3, 1), "half", Storage(*_D, stored.counted(-1)), reach=6, apart=0.03),
        "MXFP4": Grid(
            32,
            _IQ4,
            "power",
            Storage(stored.read_mxfp4, stored.mxfp4_numbers, stored.float4_codes),
            scales=(0, 254),
            reach=1,
        ),
        "NVFP4": Grid(
            16,
            _IQ4,
            "float8",
            Storage(stored.read_nvfp4, stored.nvfp4_numbers, stored.float4_codes),
            scales=(0, 126),
        ),
    }
)

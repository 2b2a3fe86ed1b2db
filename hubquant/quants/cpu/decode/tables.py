"""What codes stand for, as arrays that kernels look up."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from hubquant.quants.levels import IQ4

Array = np.ndarray[Any, Any]

_FLOAT4 = (0, 1, 2, 3, 4, 6, 8, 12)  # twice those of E2M1


def iq4_levels() -> tuple[Array]:
    """float32 [16], of IQ4_NL and IQ4_XS."""
    return (np.array(IQ4, np.float32),)


def float4_levels() -> tuple[Array]:
    """float32 [16], of MXFP4 and NVFP4: twice the number; both zeros are positive."""
    return (np.array([*_FLOAT4, *(0 - level for level in _FLOAT4)], np.float32),)


@cache
def grid(name: str) -> tuple[Array]:
    """uint8 [entries, dim]: the magnitudes of a codebook's entries; of IQ1 their levels −1 … 1, plus 1."""
    import gguf

    kind = gguf.quants._type_traits[gguf.GGMLQuantizationType[name]]
    kind.init_grid()
    values = np.asarray(kind.grid).reshape(kind.grid_shape)
    return (np.ascontiguousarray(values - min(0, *kind.grid_map), np.uint8),)

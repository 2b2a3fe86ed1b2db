"""IQ1's codebook by states: where a group of 8 weights goes when its levels are not an entry.

The state of a group has the sign of weight ``i`` at bit ``i`` and whether its level is not 0 at bit ``8 + i``. Most
states that no entry has need a flip of one or two of the latter; the sets of flips that lead to an entry, none
containing another, are listed for every state, the smaller ones first.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from hubquant.quants.cpu.best import flips as flip_lists
from hubquant.quants.cpu.vector.grids import entry_levels

Array = np.ndarray[Any, Any]

LISTED = 12  # sets of flips for each state


@cache
def flip_tables() -> tuple[Array, Array]:
    """``index`` int32 [65536], the entry of a state or −1, and ``flips`` int32 [65536, 3], the sets of flips of 8 bits
    each, 0 for the states of entries.
    """
    levels = entry_levels("IQ1_S", 8) - 1
    powers = 1 << np.arange(8)
    states = ((levels < 0) @ powers) | ((levels != 0) @ powers) << 8
    index = np.full(1 << 16, -1, np.int32)
    for free in range(256):  # signs of zeros say nothing
        index[states | (free & ~(states >> 8) & 255)] = np.arange(len(states))
    sets = np.array(sorted(range(1, 256), key=lambda s: (s.bit_count(), s)), np.int32)
    flips = np.zeros((1 << 16, LISTED), np.uint8)
    flip_lists.list_flips(index, sets, flips)
    return index, flips.view(np.int32)

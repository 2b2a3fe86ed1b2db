"""Groups of weights as entries of a codebook: x ≈ d · m · entry, d per block and an odd integer m per sub-block.

``x`` and ``w`` [blocks, subs, groups, dim] are weights (without signs, where these are stored apart) and the weight of
each squared error; scales are [blocks, subs], indices [blocks, subs, groups].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubquant.quants.tensor.arithmetic import (
    LARGEST,
    growth,
    keep_better,
    reciprocal,
    rounded,
    spread,
    square_root,
    to_half,
    total,
)
from hubquant.quants.tensor.fusion import fused

_ROUNDS = 3
_SHARE = 0.75  # of the shrinkage that d makes up for, see :mod:`cpu.best.codebook`
_STRETCH, _CHOSEN_AT, _TERNARY_SHARE = 1.03, 0.9, 0.5  # in IQ1, see :mod:`cpu.best.iq1`
_TERNARY_STARTS = (1.0, 1.3)  # root mean squares


@dataclass(frozen=True)
class Book:
    """``entries`` [shifts · size, dim]: the levels of the ``size`` entries, once for each shift of the levels.

    ``shared``: the groups of a sub-block have the same shift. Sub-block scales are the odd numbers 1 … ``most``.
    ``starts``: the first scales to try, in root mean squares of a sub-block (two shifts) or largest weights.
    """

    entries: Tensor
    shifts: int
    shared: bool
    most: int
    starts: tuple[float, ...]

    @property
    def size(self) -> int:
        return self.entries.shape[0] // self.shifts


@cache
def magnitude_book(name: str, dim: int, unit: int, tries: int, reach: float, device: torch.device) -> Book:
    """Entries of ``dim`` magnitudes, in units of d · m that are 1 / ``unit`` of those of ``gguf.quants``; ``tries``
    scales bring the largest weight up to ``reach`` around the largest level.
    """
    entries = np.asarray(_grid(name).grid, np.float32).reshape(-1, dim)
    starts = tuple(1 / (float(entries.max()) / unit + shift) for shift in spread(reach, tries))
    return Book(torch.from_numpy(entries / unit).to(device), 1, False, 31, starts)


@cache
def ternary_book(shared: bool, device: torch.device) -> Book:
    """IQ1's entries of 8 levels −1, 0, 1, shifted up and down; ``shared`` by the groups of a sub-block."""
    kind = _grid("IQ1_S")
    entries = np.asarray(kind.grid, np.float32).reshape(-1, 8)
    both = np.concatenate([entries + kind.delta, entries - kind.delta])
    return Book(torch.from_numpy(both).to(device), 2, shared, 15, _TERNARY_STARTS)


def _grid(name: str) -> Any:
    import gguf

    kind = gguf.quants._type_traits[gguf.GGMLQuantizationType[name]]
    kind.init_grid()
    return kind


def _scores(x: Tensor, _w: Tensor, _scale: Tensor, found: Book) -> int:
    return x[0].numel() // x.shape[-1] * found.entries.shape[0]


@fused(_scores)
def _nearest_entries(x: Tensor, w: Tensor, scale: Tensor, found: Book) -> Tensor:
    """The index of the entry g with the least Σ w·(x − s·g)² = Σ w·x² − 2·s·Σ w·x·g + s²·Σ w·g² for every group."""
    g = found.entries.unbind(-1)
    weighted = (w * x).unsqueeze(-1).unbind(-2)
    xg = reduce(add, (a * b for a, b in zip(weighted, g, strict=True)))
    gg = reduce(add, (a * (b * b) for a, b in zip(w.unsqueeze(-1).unbind(-2), g, strict=True)))
    s = scale[..., None, None]
    least, index = (s * gg - 2 * xg).view(*x.shape[:-1], found.shifts, found.size).min(-1)
    shift = (least.sum(-2, keepdim=True) if found.shared else least).argmin(-1, keepdim=True)
    chosen: Tensor = index.gather(-1, shift.expand(*index.shape[:-1], 1)) + found.size * shift
    return chosen.squeeze(-1)


def _sums(x: Tensor, w: Tensor, index: Tensor, found: Book) -> tuple[Tensor, Tensor]:
    """Σ w·x·g and Σ w·g² of each sub-block."""
    g = found.entries[index]
    return total((w * x * g).flatten(-2)), total((w * g * g).flatten(-2))


def _real_scales(x: Tensor, w: Tensor, found: Book) -> tuple[Tensor, Tensor]:
    """The best scale of each sub-block by least squares, with the nearest entries of a few scales; and Σ w·g²."""
    flat, mass = x.flatten(-2), w.flatten(-2)
    base = flat.amax(-1) if found.shifts == 1 else square_root(total(mass * flat * flat) * reciprocal(total(mass)))
    best: tuple[Tensor, ...] = (torch.zeros_like(base),) * 3
    for start in (*found.starts, None):  # None: the best so far
        trial = best[1] if start is None else base * start
        xg, gg = _sums(x, w, _nearest_entries(x, w, trial, found), found)
        gain = xg * xg / gg
        best = keep_better((xg > 0) & (gain > best[0]) & (gain < LARGEST), (gain, xg / gg, gg), best)
    return best[1], best[2]


def _odd(value: Tensor, d: Tensor, found: Book) -> Tensor:
    """The nearest multiples of d [blocks]."""
    return 2 * rounded((value * reciprocal(d).unsqueeze(-1) - 1) / 2, 0, (found.most - 1) / 2) + 1


def _common_step(scale: Tensor, power: Tensor, found: Book) -> Tensor:
    """The d whose multiples suit the scales best: the least Σ power·(multiple·d − scale)²."""
    high = scale.amax(-1)
    best: tuple[Tensor, ...] = (torch.full_like(high, LARGEST), high / found.most)
    for step in range(29):
        d = high / (21 + 0.5 * step)
        error = _odd(scale, d, found) * d.unsqueeze(-1) - scale
        cost = total(power * (error * error))
        best = keep_better(cost < best[0], (cost, d), best)
    return best[1]


def _fitted(m: Tensor, xg: Tensor, gg: Tensor, d: Tensor) -> Tensor:
    """d by least squares."""
    fitted = total(m * xg) / total(m * m * gg)
    return torch.where((fitted > 0) & (fitted < LARGEST), fitted, d)


def _grown(share: float, x: Tensor, w: Tensor, d: Tensor, m: Tensor, index: Tensor, found: Book) -> Tensor:
    values = (d.unsqueeze(-1) * m)[..., None, None] * found.entries[index]
    return to_half(d * growth(share, x, w, values))


def search_ternary(x: Tensor, w: Tensor, found: Book) -> tuple[Tensor, Tensor, Tensor]:
    """Half-precision d [blocks], odd multiples [blocks, subs] and indices: d is larger than by least squares, and the
    entries are those for a somewhat smaller scale.
    """
    scale, _ = _real_scales(x, w, found)
    d = scale.amax(-1) / found.most
    m = _odd(scale, d, found)
    xg, gg = _sums(x, w, _nearest_entries(x, w, d.unsqueeze(-1) * m, found), found)
    stretched = _STRETCH * _fitted(m, xg, gg, d)
    d = to_half(stretched)
    m = _odd(m * stretched.unsqueeze(-1), d, found)
    index = _nearest_entries(x, w, _CHOSEN_AT * d.unsqueeze(-1) * m, found)
    return _grown(_TERNARY_SHARE, x, w, d, m, index, found), m, index


def search(x: Tensor, w: Tensor, found: Book) -> tuple[Tensor, Tensor, Tensor]:
    """Half-precision d [blocks], odd multiples [blocks, subs] and indices: from the best real scales, each round tries
    the neighbouring multiples with the nearest entries of each, then fits d by least squares; at last d grows.
    """
    scale, power = _real_scales(x, w, found)
    squares = total((w * x * x).flatten(-2))
    best: tuple[Tensor, ...] = ()
    d = to_half(_common_step(scale, power, found))
    for _ in range(_ROUNDS):
        m = _odd(scale, d, found)
        near: tuple[Tensor, ...] = ()
        for other in (m, (m - 2).clamp(min=1), (m + 2).clamp(max=found.most)):
            real = d.unsqueeze(-1) * other
            index = _nearest_entries(x, w, real, found)
            xg, gg = _sums(x, w, index, found)
            trial = (squares - 2 * real * xg + real * real * gg, other, index, xg, gg)
            near = keep_better(trial[0] < near[0], trial, near) if near else trial
        errors, m, index, xg, gg = near
        now = (total(errors), d, m, index)
        best = keep_better(now[0] < best[0], now, best) if best else now
        d = to_half(_fitted(m, xg, gg, d))
        scale = d.unsqueeze(-1) * m
    _, d, m, index = best
    return _grown(_SHARE, x, w, d, m, index, found), m, index


def magnitudes(x: Tensor, w: Tensor, even: bool) -> tuple[Tensor, Tensor]:
    """``x`` [blocks, n] without signs, and the sign bits of 8 neighbours as a number [blocks, n / 8].

    ``even``: only 7 bits are stored, for the number of negative signs is even; where it is odd, the weight whose flip
    costs least gets the wrong sign, and its magnitude is negative.
    """
    x, w = x.view(x.shape[0], -1, 8), w.view(x.shape[0], -1, 8)
    negative = x < 0
    if even:
        odd = negative.sum(-1, keepdim=True) % 2 == 1
        cheapest = torch.zeros_like(negative).scatter(-1, (w * x * x).argmin(-1, keepdim=True), odd)
        negative = negative ^ cheapest
    bits = total(negative * torch.tensor([1 << k for k in range(8)], device=x.device))
    return torch.where(negative, -x, x).flatten(1), bits & 127 if even else bits

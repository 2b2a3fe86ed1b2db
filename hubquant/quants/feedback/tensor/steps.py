"""What stored scales and codes stand for, and which other ones lie near them: :mod:`feedback.kernels.steps` of tensors.

A weight is step · level − low; d and dmin are super-scales, 1 where a type has none. Scales are float32 of any shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from hubquant.quants.feedback.grids import Grid
from hubquant.quants.levels import FLOAT4, IQ4
from hubquant.quants.tensor.arithmetic import LARGEST, reciprocal, rounded, to_half
from hubquant.quants.tensor.searches import half_of_e4m3, half_of_power

# values, and where the nearest level of each is put
Nearest = Callable[[Tensor, Tensor], None]


class Steps(NamedTuple):
    """Of a kind of type: ``nearest(grid, device)``; ``step(d, scale)`` and ``low(dmin, minimum)``; ``near(grid, scale,
    away)`` and ``near_low(grid, minimum, step, away)``, the stored numbers ``away`` steps from others; ``fit(grid, d,
    step)`` and ``fit_low(grid, dmin, low)``, those that come nearest to what is wanted. ``supers``: d and dmin are
    fitted too.
    """

    nearest: Callable[[Grid, torch.device], Nearest]
    step: Callable[[Tensor, Tensor], Tensor]
    near: Callable[[Grid, Tensor, Tensor], Tensor]
    fit: Callable[[Grid, Tensor, Tensor], Tensor]
    low: Callable[[Tensor, Tensor], Tensor]
    near_low: Callable[[Grid, Tensor, Tensor, Tensor], Tensor]
    fit_low: Callable[[Grid, Tensor, Tensor], Tensor]
    supers: bool = False


def inverse_of(step: Tensor) -> Tensor:
    """1 / step, 0 for 0, and finite for numbers so small that it would not be."""
    return reciprocal(step).clamp(-LARGEST, LARGEST)


# ---- levels ---------------------------------------------------------------------------------------------------------


def _even(grid: Grid, _device: torch.device) -> Nearest:
    low, count, distance = grid.levels

    def whole(value: Tensor, out: Tensor) -> None:
        torch.round(value, out=out).clamp_(low, low + count)

    def apart(value: Tensor, out: Tensor) -> None:
        torch.sub(value, low, out=out).div_(distance).round_().clamp_(0, count).mul_(distance).add_(low)

    return whole if distance == 1 else apart


def _uneven(places: tuple[float, ...], device: torch.device) -> Nearest:
    levels = torch.tensor(places, dtype=torch.float32, device=device)
    middles = (levels[1:] + levels[:-1]) / 2

    def nearest(value: Tensor, out: Tensor) -> None:
        torch.take(levels, torch.bucketize(value, middles, right=True), out=out)

    return nearest


def _of_iq4(_grid: Grid, device: torch.device) -> Nearest:
    return _uneven(IQ4, device)


def _of_float4(_grid: Grid, device: torch.device) -> Nearest:
    """Twice the numbers of E2M1, as their scales are stored as halves."""
    return _uneven(tuple(2 * level for level in FLOAT4), device)


# ---- whole scales and minima of a super-scale -----------------------------------------------------------------------


def _product(d: Tensor, scale: Tensor) -> Tensor:
    return d * scale


def _whole_near(grid: Grid, scale: Tensor, away: Tensor) -> Tensor:
    return (scale + away).clamp(*grid.scales)


def _whole_fit(grid: Grid, d: Tensor, step: Tensor) -> Tensor:
    return rounded(step * inverse_of(d), *grid.scales)


def _whole_near_low(grid: Grid, minimum: Tensor, _step: Tensor, away: Tensor) -> Tensor:
    return (minimum + away).clamp(*grid.minima)


def _whole_fit_low(grid: Grid, dmin: Tensor, low: Tensor) -> Tensor:
    return rounded(low * inverse_of(dmin), *grid.minima)


# ---- scales and minima in half precision ----------------------------------------------------------------------------


def _itself(_d: Tensor, scale: Tensor) -> Tensor:
    return scale


def _half_near(grid: Grid, scale: Tensor, away: Tensor) -> Tensor:
    return to_half(scale * (1 + grid.apart * away))


def _half_fit(_grid: Grid, _d: Tensor, step: Tensor) -> Tensor:
    return to_half(step)


def _half_near_low(grid: Grid, minimum: Tensor, step: Tensor, away: Tensor) -> Tensor:
    """Around half of all levels: as far as a scale moves them, and as finely."""
    return to_half(minimum + step * (away * (grid.apart * grid.levels[1])))


def _half_fit_low(_grid: Grid, _dmin: Tensor, low: Tensor) -> Tensor:
    return to_half(low)


# ---- scales that are codes ------------------------------------------------------------------------------------------


def _half_power(_d: Tensor, code: Tensor) -> Tensor:
    return half_of_power(code)


def _power_fit(grid: Grid, _d: Tensor, step: Tensor) -> Tensor:
    """The nearest power of two."""
    exponent = (step.abs().view(torch.int32) + (1 << 22)) >> 23
    return (exponent + 1).float().clamp(*grid.scales)


def _half_float(_d: Tensor, code: Tensor) -> Tensor:
    return half_of_e4m3(code)


def _float_fit(grid: Grid, _d: Tensor, step: Tensor) -> Tensor:
    """The nearest unsigned number of E4M3."""
    low, high = grid.scales
    halves = half_of_e4m3(torch.arange(low, high + 1, device=step.device))
    return torch.bucketize(step.abs(), (halves[1:] + halves[:-1]) / 2).float() + low


_WHOLE = (_product, _whole_near, _whole_fit, _product, _whole_near_low, _whole_fit_low, True)
_HALF = (_itself, _half_near, _half_fit, _itself, _half_near_low, _half_fit_low)
_WITHOUT_LOW = (_itself, _half_near_low, _half_fit_low)

STEPS: Mapping[str, Steps] = MappingProxyType(
    {
        "whole": Steps(_even, *_WHOLE),
        "whole_iq4": Steps(_of_iq4, *_WHOLE),
        "half": Steps(_even, *_HALF),
        "half_iq4": Steps(_of_iq4, *_HALF),
        "power": Steps(_of_float4, _half_power, _whole_near, _power_fit, *_WITHOUT_LOW),
        "float8": Steps(_of_float4, _half_float, _whole_near, _float_fit, *_WITHOUT_LOW),
    }
)
"""By the ``kind`` of a :class:`Grid`."""

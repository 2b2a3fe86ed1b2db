"""The levels that the codes of a type stand for."""

from __future__ import annotations

from dataclasses import dataclass

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
FLOAT4 = (-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6)


@dataclass(frozen=True)
class Levels:
    """``low`` and ``high`` fill the bytes of the codes so that every weight has its lowest and its highest level;
    ``places`` are all levels on a scale of their own, None where ``count`` of them are evenly spaced."""

    count: int
    low: int = 0x00
    high: int = 0xFF
    places: tuple[float, ...] | None = None

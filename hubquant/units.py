"""How numbers are written wherever a person reads them: on a terminal, in messages, on a card."""

from __future__ import annotations

import math

SIZES = ("B", "kB", "MB", "GB", "TB")


def unit(n_bytes: float) -> tuple[int, str]:
    """The decimal unit, in bytes and by name, that leaves at most three digits before the point."""
    step = 0
    while n_bytes >= 999.5 * 1000**step and step < len(SIZES) - 1:
        step += 1
    return 1000**step, SIZES[step]


# By hand: rich.filesize.decimal has fixed decimals (458.00 MB), and makes 1,000.0 kB of 999,999 bytes.
def size(n_bytes: float) -> str:
    """Decimal units and three digits, as the Hub shows sizes: 4.58 GB."""
    scale, name = unit(n_bytes)
    return f"{n_bytes:.0f} B" if scale == 1 else f"{number(n_bytes / scale)} {name}"


def counted(n: int, one: str, many: str | None = None) -> str:
    """With its noun, or a verb too: 1 tensor, 2 tensors; ``many`` where that is not ``one`` and an s."""
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"


def duration(seconds: float) -> str:
    """To two units: 8 s, 3 min 20 s, 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def number(value: float, digits: int = 3) -> str:
    """So many significant digits, without an exponent, and at most eight decimals: 0.0283, 1.39, 123."""
    return f"{value:.{_decimals(value, digits)}f}" if value else "0"


def measured(value: float, error: float) -> str:
    """With its standard error, which sets the digits: two to five, and at most six decimals: 0.0283 ± 0.0004."""
    decimals = min(max(_decimals(error, 1), _decimals(value, 2)), _decimals(value, 5), 6)
    rounded = f"{error:.{decimals}f}"
    return f"{value:.{decimals}f} ± {rounded}" if float(rounded) else f"{value:.{decimals}f}"


def share(value: float, error: float) -> str:
    """A share of one and its standard error in percent: 98.22 ± 0.13 %."""
    return f"{value:.2%}".rstrip("%") + f" ± {error:.2%}".replace("%", " %")


def _decimals(value: float, digits: int) -> int:
    """That show so many significant digits."""
    if not value:
        return 8
    magnitude = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    return min(max(digits - 1 - magnitude, 0), 8)

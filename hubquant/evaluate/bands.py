"""How far a tensor may be from its source, by its type, whatever weighed its errors.

**Types whose weights are rounded one by one** (all but IQ1, IQ2 and IQ3). Importance may make a quantizer choose almost
any scale: with a column that outweighs all others it is the one that meets this column, and the others are clipped. So
no share of the weights' size bounds the error. But once scales and minima are chosen, each code is for one weight only,
and for any positive weighting the nearest level is the best. So the squared error e is compared with what the *stored*
scales leave:

    l = Σ(x − nearest level)²        u = Σ step² / 12        e ≤ a·l + b·u

l is the least possible; u, the error of weights that lie anywhere between levels, leaves room where weights happen to
lie on levels. A file that was made of a coarser type's values has other codes than the nearest: Q8_0 made of Q6_K has
many times the error l. Where it does not (the source lies on the coarser type's levels), nothing was lost.

Measured on 33 kinds of matrices (Gaussian, Laplace, Student-t, uniform, constant and nearly so, shifted, scaled by rows
and by columns, with outliers 30 and 1000 times as large, sparse, with rows and blocks of zeros, integers, and what ten
types make of Gaussian weights) with ten kinds of importance (none, equal, lognormal with σ = 2 and 4, one column in a
hundred 10⁴ and 10⁷ times and one in 200 10⁹ times as important, half of the columns and whole blocks without any, all
but one without any): with a = 1.44, b is 0 for tensors of every type in both modes, but 0.08 for Q3_K in ``best``,
whose scales grow after the codes are chosen; with a = 4, it is 0.5 for single rows. The exceptions are Q4_0, Q5_0 (1.0,
rows 2.8), Q4_1 (24, rows 74) and Q5_1 (30, rows 288) in ``exact``: llama.cpp fits their scales after the codes, and
leaves the codes.

With error feedback a code makes up for the errors of others, and is not the nearest. Of Gaussian weights with four
kinds of moments (low rank, mixed columns with lognormal sizes, a column 1000 times as large beside dead ones, eight
samples) e is up to 2.5·l for tensors and 7.5·l for rows; of MXFP4, whose scales are powers of two, 6.3·l and 52·l. In
SmolLM2-135M, where the power of one input is 70,000 times the median's, it is up to 3.2·l and 27·l.

**Types whose codes stand for several weights**. Nothing of the kind holds: importance may give the code to one of the
weights. The error is compared with the *reach*, √(mean of (max |x| of each 32 weights)²), and with the size of the
weights. For Gaussian weights with lognormal importance, and the largest of the matrices above, without the most extreme
importance but with half of the columns dead:

    type     Gaussian  largest        type     Gaussian  largest        type     Gaussian  largest
    IQ3_S        .081      .54        IQ2_S        .133      .46        IQ1_S        .236      .39
    IQ3_XXS      .123      .59        IQ2_XS       .166      .59        IQ1_M        .226      .57
                                      IQ2_XXS      .189      .66

(IQ1 without dead columns in ``exact``, where it is of no use with them and may be refused.) So these types are told
from others by their divergence only.

**Rows**. In a row with weights all over more must have the source's sign than the other, or Σx·y must be positive (few
large weights may decide either): so it is in none that was never written, and not in each that holds another row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from hubquant.quants.api import Mode
from hubquant.quants.compared import RowSums, row_sums
from hubquant.quants.traits import TRAITS

GROUP = 32

LEAST, LEAST_OF_ROW = 1.5, 4.0
BETWEEN, BETWEEN_OF_ROW = 0.2, 1.5
FITTED_AFTERWARDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")  # by llama.cpp
BETWEEN_FITTED, BETWEEN_FITTED_OF_ROW = 40.0, 600.0
LEAST_FED_BACK, LEAST_FED_BACK_OF_ROW = 8.0, 100.0
LEAST_OF_POWERS, LEAST_OF_POWERS_OF_ROW = 20.0, 400.0
POWERS_OF_TWO = ("MXFP4",)  # are its scales

Rounding = Literal[Mode, "feedback"]
"""How weights were rounded: in one of the modes, or in ``best`` with error feedback."""

REACHES: Mapping[str, float] = MappingProxyType(
    {
        "IQ3_S": 0.65,
        "IQ3_XXS": 0.70,
        "IQ2_S": 0.65,
        "IQ2_XS": 0.70,
        "IQ2_XXS": 0.80,
        "IQ1_M": 0.80,
        "IQ1_S": 0.80,
    }
)
VERIFIED = frozenset(REACHES) | {name for name, traits in TRAITS.items() if traits.levels}
# Other weights of the same size are √2 times their size away.
LARGEST_RELATIVE_ERROR = 1.3
# A row without a larger weight may vanish in the float16 scales of a format: it must only stay as small.
SMALLEST_ROW = 2.0**-10


@dataclass
class ErrorSums:
    """Σ(x − y)² and Σx² of the rows seen so far, what the first may be, how many rows hold something else, and whether
    all their values are finite."""

    type: str
    mode: Rounding
    error: float = 0.0
    power: float = 0.0
    allowed: float = 0.0
    bad_rows: int = 0
    finite: bool = True

    def add(self, x: Tensor, y: Tensor, data: Tensor) -> None:
        """Rows [n, n_in] of the source, and of the file in float32 and in its bytes; ``n_in`` is a multiple of
        ``GROUP``."""
        n_in = x.shape[1]
        rows = row_sums(x, y, data, self.type)
        small = rows.peak < SMALLEST_ROW
        allowed, of_row = self._allowed(x, rows)
        of_row[small] = n_in * SMALLEST_ROW**2
        elsewhere = (2 * rows.filled > n_in) & ~small & (rows.agreeing <= 0) & ~(rows.along > 0)
        self.finite &= bool(rows.error.isfinite().all())
        self.bad_rows += int((~(rows.error <= of_row) | elsewhere).sum())
        self.error += float(rows.error[~small].sum())
        self.power += float(rows.power[~small].sum())
        self.allowed += float(allowed[~small].sum())

    def __add__(self, other: ErrorSums) -> ErrorSums:
        """Of the rows of both, which have one type and mode."""
        return ErrorSums(
            self.type,
            self.mode,
            self.error + other.error,
            self.power + other.power,
            self.allowed + other.allowed,
            self.bad_rows + other.bad_rows,
            self.finite and other.finite,
        )

    def _allowed(self, x: Tensor, rows: RowSums) -> tuple[Tensor, Tensor]:
        """The squared error of each row, float64 [n], as a part of the whole and by itself."""
        if self.type in REACHES:
            peaks = x.abs().view(len(x), -1, GROUP).amax(2)
            reach = GROUP * peaks.double().square().sum(1)
            return REACHES[self.type] ** 2 * reach, torch.full_like(rows.power, torch.inf)
        least, least_of_row, between, between_of_row = LEAST, LEAST_OF_ROW, BETWEEN, BETWEEN_OF_ROW
        if self.mode == "exact" and self.type in FITTED_AFTERWARDS:
            between, between_of_row = BETWEEN_FITTED, BETWEEN_FITTED_OF_ROW
        elif self.mode == "feedback":
            powers = self.type in POWERS_OF_TWO
            least = LEAST_OF_POWERS if powers else LEAST_FED_BACK
            least_of_row = LEAST_OF_POWERS_OF_ROW if powers else LEAST_FED_BACK_OF_ROW
        return least * rows.least + between * rows.between, least_of_row * rows.least + between_of_row * rows.between

    @property
    def relative_error(self) -> float:
        """RMS error / RMS of the source, over the rows that are not too small to measure."""
        return float((self.error / self.power) ** 0.5) if self.power else 0.0

    @property
    def limit(self) -> float:
        """What ``relative_error`` may be."""
        if self.power == 0:
            return 0.0
        limit = float((self.allowed / self.power) ** 0.5)
        return min(LARGEST_RELATIVE_ERROR, limit) if self.type in REACHES else limit

"""How large the error of a tensor may be, by its type.

A format with one scale per group of weights is off by a share of the group's largest weight, whatever the distribution
of the weights: the *reach* of a tensor, sqrt(mean of (max |x| of each 32 weights)²), predicts its error, and the RMS
error divided by the reach hardly varies. Measured with llama.cpp's quantizers, without importance and with it
(lognormal, σ = 2; one column in a hundred 10⁴ times as important), on Gaussian, Laplace, Student-t (2 and 3 degrees of
freedom), uniform and nearly constant weights, and with lognormal scales of rows or of columns and outlier columns:

    type     Gaussian  largest        type     Gaussian  largest        type     Gaussian  largest
    Q8_0        .0022    .0023        IQ4_XS      .034      .046        IQ2_XS      .150      .214
    Q6_K        .0082    .0128        Q4_K        .033      .036        IQ2_XXS     .182      .387
    Q5_K        .016     .018         MXFP4       .048      .086        IQ1_M       .223      .291
    Q5_1        .016     .018         NVFP4       .040      .096        IQ1_S       .233      .297
    Q5_0        .018     .033         Q3_K        .068      .080        Q2_0        .300      .300
    Q4_1        .033     .036         IQ3_S       .066      .164        TQ1_0       .337      .337
    Q4_0        .037     .049         IQ3_XXS     .097      .167        TQ2_0       .337      .337
    IQ4_NL      .034     .045         Q2_K        .129      .152        Q1_0        .250      .296
                                      IQ2_S       .121      .164

``LIMITS`` leave room above the largest, and on Gaussian weights stay below the error of types with two bits less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

GROUP = 32

LIMITS: Mapping[str, float] = MappingProxyType(
    {
        "Q8_0": 0.004,
        "Q6_K": 0.020,
        "Q5_K": 0.028,
        "Q5_1": 0.028,
        "Q5_0": 0.038,
        "Q4_K": 0.055,
        "Q4_1": 0.055,
        "Q4_0": 0.058,
        "IQ4_NL": 0.060,
        "IQ4_XS": 0.060,
        "MXFP4": 0.11,
        "NVFP4": 0.13,
        "Q3_K": 0.11,
        "Q3_K_HIFI": 0.11,
        "IQ3_S": 0.19,
        "IQ3_XXS": 0.22,
        "Q2_K": 0.20,
        "IQ2_S": 0.22,
        "IQ2_XS": 0.28,
        "IQ2_XXS": 0.46,
        "IQ1_M": 0.40,
        "IQ1_S": 0.40,
        "Q2_0": 0.40,
        "TQ1_0": 0.45,
        "TQ2_0": 0.45,
        "Q1_0": 0.40,
    }
)

# A tensor whose error is as large as itself is no better than zeros, whatever its type.
LARGEST_RELATIVE_ERROR = 1.0
# One row may be much harder than the whole: importance gives its errors to the columns that matter less. A row of zeros
# or of other weights still shows from four bits on.
ROW_FACTOR = 4.0
# A row without a larger weight may vanish in the float16 scales of a format: it must only stay as small.
SMALLEST_ROW = 2.0**-10


@dataclass
class ErrorSums:
    """Σ(x − y)², Σx² and Σ(max |x| of each group)² of the rows seen so far, and whether a row is out of its band."""

    type: str
    error: float = 0.0
    power: float = 0.0
    reach: float = 0.0
    bad_rows: int = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Rows [n, n_in] of the source and of the file, float32; ``n_in`` is a multiple of ``GROUP``."""
        error = (x - y).double().square().sum(1)
        power = x.double().square().sum(1)
        peaks = x.abs().view(len(x), -1, GROUP).amax(2).double()
        reach = GROUP * peaks.square().sum(1)
        limit = (ROW_FACTOR * LIMITS[self.type]) ** 2 * reach
        small = peaks.amax(1) < SMALLEST_ROW
        limit[small] = x.shape[1] * SMALLEST_ROW**2
        self.bad_rows += int((error > limit).sum())
        self.error += float(error[~small].sum())
        self.power += float(power[~small].sum())
        self.reach += float(reach[~small].sum())

    @property
    def relative_error(self) -> float:
        """RMS error / RMS of the source, over the rows that are not too small to measure."""
        return float((self.error / self.power) ** 0.5) if self.power else 0.0

    @property
    def limit(self) -> float:
        """What ``relative_error`` may be for weights as spread out as these."""
        if self.power == 0:
            return 0.0
        return min(LARGEST_RELATIVE_ERROR, LIMITS[self.type] * float((self.reach / self.power) ** 0.5))

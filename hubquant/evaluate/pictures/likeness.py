"""How alike two pictures of the same prompt and seed are. Pure functions on tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import avg_pool2d

LEAST_SQUARE = 2.0**-48
"""What float32 tells apart between 0 and 1, squared: of equal pictures PSNR is 144.5 dB, and no infinity."""
WINDOW = 7
K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class Likeness:
    """One picture, drawn on its own by a file from the source's noise: ``drift`` is the relative error of its final
    latents, ``psnr`` in dB and ``ssim`` are those of what was decoded."""

    drift: float
    psnr: float
    ssim: float

    @classmethod
    def of(cls, latents: Tensor, picture: Tensor, source_latents: Tensor, source_picture: Tensor) -> Likeness:
        """Latents of any shape; pictures [..., height, width] with values in 0..1, such as [frames, 3, h, w]."""
        return cls(
            relative_error(latents, source_latents), psnr(picture, source_picture), ssim(picture, source_picture)
        )


def relative_error(found: Tensor, source: Tensor) -> float:
    """‖found − source‖ / ‖source‖, in float64. 0 where both are zero."""
    found, source = found.cpu().double(), source.cpu().double()
    distance, size = float((found - source).norm()), float(source.norm())
    return distance / size if size else math.inf if distance else distance


def psnr(found: Tensor, source: Tensor) -> float:
    """Peak signal-to-noise ratio 10 log10(1 / mean squared difference) in dB, of pictures with values in 0..1."""
    square = float((found.cpu().double() - source.cpu().double()).square().mean())
    return math.nan if math.isnan(square) else -10 * math.log10(max(square, LEAST_SQUARE))


def ssim(found: Tensor, source: Tensor) -> float:
    """Mean structural similarity of pictures [..., height, width] with values in 0..1, by channel, over the windows of
    7 × 7 pixels that lie within; variances are those of samples, as scikit-image has them. ``ValueError`` for a picture
    that is smaller than a window.

    Wang, Bovik, Sheikh, Simoncelli: Image quality assessment: from error visibility to structural similarity, IEEE
    Transactions on Image Processing 13 (2004), equation 13, with K1 = 0.01 and K2 = 0.03.
    https://scikit-image.org/docs/stable/api/skimage.metrics.html#skimage.metrics.structural_similarity
    """
    height, width = source.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(f"a picture of {width} × {height} pixels is smaller than a window of {WINDOW}")
    x, y = (each.cpu().double().reshape(-1, 1, height, width) for each in (found, source))
    sample = WINDOW**2 / (WINDOW**2 - 1)
    mean_x, mean_y = _means(x), _means(y)
    variance_x, variance_y = (sample * (_means(each * each) - _means(each) ** 2) for each in (x, y))
    covariance = sample * (_means(x * y) - mean_x * mean_y)
    c1, c2 = K1**2, K2**2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return float((above / below).mean())


def _means(x: Tensor) -> Tensor:
    """[n, 1, h, w] to [n, 1, h − 6, w − 6]."""
    means: Tensor = avg_pool2d(x, WINDOW, 1)
    return means

"""The second moment of a layer's inputs, and its factor: how errors of columns are passed on, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubquant.devices import in_full_float32, torch_threads, where_float64_is
from hubquant.quants.feedback.sizes import PANEL, SLAB

Array = np.ndarray[Any, Any]
Share = Callable[[Callable[[Any], None], Iterable[Any]], Any]

DAMPING = 0.03  # of the mean diagonal, added to all of it
_MOST_DAMPING = 1.0
_TILE = 512  # rows and columns of a product that are one thread's


@dataclass(frozen=True, eq=False)
class Factor:
    """Of a damped moment H whose mean diagonal is 1, by slabs of ``SLAB`` neighbouring columns (the last one may have
    fewer). It serves any order in which the columns of a slab are rounded.

    ``moment`` is H and ``passed_on`` what slabs pass on, both as :func:`panels` of float32 [n, n], on the device that
    found them. Once errors e [rows, SLAB] were made in a slab, subtracting e · ``passed_on``[slab, rest] from the
    columns after it makes those the best that they can be: it is U_bb⁻¹ · U_b,rest with H⁻¹ = Uᵀ U, U upper triangular.
    ``slabs`` float64 [SLAB, SLAB], on the CPU, are the moments of slabs when the columns after each one make up for its
    errors so, (U_bbᵀ U_bb)⁻¹: tr(E H Eᵀ) is the sum of tr(e · slab · eᵀ) over all slabs.
    """

    moment: Tensor
    passed_on: Tensor
    slabs: tuple[Tensor, ...]

    @property
    def columns(self) -> int:
        return len(self.moment) * PANEL

    @cached_property
    def on_cpu(self) -> Factor:
        """The same for kernels."""
        if self.moment.device.type == "cpu":
            return self
        return Factor(self.moment.cpu(), self.passed_on.cpu(), self.slabs)

    @cached_property
    def importance(self) -> Tensor:
        """The damped mean square of each input, float32 [n]: never 0."""
        columns = torch.arange(self.columns, device=self.moment.device)
        return self.moment[columns // PANEL, columns, columns % PANEL]

    def inside(self, order: Tensor) -> list[tuple[Array, Inner]]:
        """For each slab, whose columns are rounded in the ``order`` int64 [n]: their places in it, and how they pass
        errors on to each other."""
        found = []
        with torch_threads(1):
            for start, slab in zip(range(0, self.columns, SLAB), self.slabs, strict=True):
                places = order[start : start + SLAB] - start
                found.append((places.numpy(), _inner(slab[places][:, places].unsqueeze(0))))
        return found

    def of_neighbours(self, k: int) -> Inner:
        """Of the moments of each ``k`` columns by themselves; ``k`` is a multiple of ``PANEL``."""
        groups = self.columns // k
        blocks = self.moment.view(groups, k // PANEL, groups, k, PANEL)
        own = blocks.diagonal(dim1=0, dim2=2).permute(3, 1, 0, 2)
        with torch_threads(1):
            return _inner(own.reshape(groups, k, k).double())


@dataclass(frozen=True)
class Inner:
    """Of moments [groups, k, k], with U as for a :class:`Factor`: ``passed_on`` float32 [groups, k, k] is U with rows
    divided by their diagonal. Once an error e was made in column i, subtracting e · ``passed_on[i]`` from the columns
    makes those after i the best that they can be. ``cost`` float32 [groups, k] = 1 / Uᵢᵢ²: the error is the sum of
    cost · e² over all errors made so. ``inverse`` float32 [groups, k, k].
    """

    inverse: Array
    passed_on: Array
    cost: Array


def _inner(moments: Tensor) -> Inner:
    upper = inverse_factor(moments)
    assert upper is not None, "parts of a positive definite matrix are"
    diagonal = upper.diagonal(dim1=1, dim2=2)
    return Inner(_array(upper.mT @ upper), _array(upper / diagonal.unsqueeze(2)), _array(1 / diagonal.square()))


def panels(matrix: Tensor) -> Tensor:
    """[rows, n] -> float32 [n / PANEL, rows, PANEL]"""
    return matrix.reshape(len(matrix), -1, PANEL).transpose(0, 1).float().contiguous()


def turned(of_panels: Tensor, rows: slice, columns: slice) -> Tensor:
    """Some ``rows`` and ``columns``, which begin and end with panels, of what :func:`panels` made: [columns, rows]."""
    some = of_panels[columns.start // PANEL : columns.stop // PANEL, rows]
    return some.transpose(1, 2).reshape(-1, some.shape[1])


def factorize(moment: Tensor, damping: float, threads: int = 1) -> Factor:
    """The factor of ``moment`` float [n, n], found where that is if there is float64.

    Ten times more damping is tried as long as the moment is not positive definite, up to the mean diagonal itself.
    ValueError where that is not enough. The same for any number of ``threads``: each tile of a product
    is made by one.
    """
    moment = where_float64_is(moment.detach()).float()
    mean = float(moment.diagonal().double().mean())
    strength = damping
    with torch_threads(1), in_full_float32(), ThreadPoolExecutor(threads) as pool:
        share: Share = pool.map if threads > 1 else map
        while True:
            damped = moment / mean if mean > 0 else torch.eye(len(moment), device=moment.device)
            damped.diagonal().add_(strength)
            damped /= 1 + strength
            upper = damped.clone()
            slabs: list[Tensor] = []
            if _factorize(upper, slabs, share):
                break
            del upper
            if strength >= _MOST_DAMPING:
                raise ValueError(f"the moment is not positive definite, even with {strength:.0%} damping")
            strength = min(10 * strength, _MOST_DAMPING)
        for start in range(0, len(upper), SLAB):
            own, rest = upper[start : start + SLAB, start : start + SLAB], upper[start : start + SLAB, start + SLAB :]
            rest.copy_(torch.linalg.solve_triangular(own, rest, upper=True))
            own.zero_()
        passed_on = panels(upper)
        del upper
        return Factor(panels(damped), passed_on, tuple(slabs))


def _factorize(matrix: Tensor, slabs: list[Tensor], share: Share) -> bool:
    """H [n, n] becomes U; False unless it is positive definite. The moments of slabs are put before ``slabs``.

    By halves of the columns: H = [[A, B], [Bᵀ, D]] with H = R Rᵀ, R = U⁻¹ upper triangular, gives R_B = B U_Dᵀ, the
    rest A − R_B R_Bᵀ of A, whose factor is U_A, and U_B = −U_A R_B U_D. Products are made tile by tile, so that no sum
    depends on how threads share them, and without the zeros of triangles. That is as precise as it must be in single
    precision, with slabs in double: on real moments what is lost on held-out inputs differs by 1e-7 of itself.
    """
    n = len(matrix)
    if n <= SLAB:
        slab = matrix.double()
        upper = inverse_factor(slab)
        if upper is None:
            return False
        slabs.insert(0, slab.cpu())
        matrix.copy_(upper)
        return True
    half = -(-n // SLAB) // 2 * SLAB
    a, b, d = matrix[:half, :half], matrix[:half, half:], matrix[half:, half:]
    if not _factorize(d, slabs, share):
        return False
    tiles = [(rows, columns) for rows in _tiles(half) for columns in _tiles(n - half)]
    r = torch.empty_like(b)

    def between(tile: tuple[slice, slice]) -> None:
        rows, columns = tile
        r[rows, columns] = b[rows, columns.start :] @ d[columns, columns.start :].T

    def rest(tile: tuple[slice, slice]) -> None:
        rows, columns = tile
        a[rows, columns].addmm_(r[rows], r[columns].T, alpha=-1)

    def first(tile: tuple[slice, slice]) -> None:
        rows, columns = tile
        b[rows, columns] = r[rows, : columns.stop] @ d[: columns.stop, columns]

    def second(tile: tuple[slice, slice]) -> None:
        rows, columns = tile
        r[rows, columns] = a[rows, rows.start :] @ b[rows.start :, columns]

    list(share(between, tiles))
    list(
        share(
            rest, [(rows, columns) for rows in _tiles(half) for columns in _tiles(half) if rows.start <= columns.start]
        )
    )
    if not _factorize(a, slabs, share):
        return False
    list(share(first, tiles))
    list(share(second, tiles))
    torch.neg(r, out=b)
    matrix[half:, :half] = 0
    return True


def _tiles(n: int) -> list[slice]:
    return [slice(start, min(start + _TILE, n)) for start in range(0, n, _TILE)]


def inverse_factor(matrices: Tensor) -> Tensor | None:
    """U, upper triangular, with H⁻¹ = Uᵀ U of each of [..., n, n]; None unless all are positive definite.

    H = R Rᵀ with R upper triangular is Cholesky's factorization from the last column to the first, and U = R⁻¹.
    """
    lower, failed = torch.linalg.cholesky_ex(matrices.flip(-2, -1))
    if failed.any() or not torch.isfinite(lower.diagonal(dim1=-2, dim2=-1)).all():
        return None
    one = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    upper: Tensor = torch.linalg.solve_triangular(lower, one, upper=False).flip(-2, -1)
    return upper


def _array(values: Tensor) -> Array:
    return values.float().contiguous().cpu().numpy()


def check_moment(moment: Tensor, columns: int) -> None:
    """ValueError unless ``moment`` is a finite float matrix [columns, columns] without negative diagonal."""
    if moment.dim() != 2 or moment.shape != (columns, columns) or not moment.is_floating_point():
        raise ValueError(
            f"the moment of {columns} columns is a float matrix [{columns}, {columns}], "
            f"not {moment.dtype} {list(moment.shape)}"
        )
    if not torch.isfinite(moment).all() or (moment.diagonal() < 0).any():
        raise ValueError("the moment holds non-finite values or a negative diagonal")

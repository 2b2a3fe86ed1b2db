"""How the IQ1, IQ2 and IQ3 types store what :func:`codebook.search` finds; arguments as in :mod:`tensor.searches`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hubquant.quants.formats import TypeFormat
from hubquant.quants.packing import joined, little_endian, pack
from hubquant.quants.tensor.codebook import Book, magnitude_book, magnitudes, search, search_ternary, ternary_book

# entry indices [blocks, groups], signs [blocks, 32], scale codes [blocks, subs], d [blocks] -> members of the block
Members = Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, Tensor]]
Books = Callable[[torch.device], Book]


def _search(
    book: Books, subs: int, even: bool, members: Members, x: Tensor, w: Tensor, _: bool, fmt: TypeFormat
) -> Tensor:
    found = book(x.device)
    values, signs = magnitudes(x, w, even)
    shape = (x.shape[0], subs, -1, found.entries.shape[1])
    d, m, index = search(values.view(shape), w.view(shape), found)
    scales = ((m - 1) / 2).to(torch.int64)
    return pack(fmt, {"d": d, **members(index.flatten(1), signs, scales, d)})


def _search_levels(book: Books, subs: int, members: Members, x: Tensor, w: Tensor, _: bool, fmt: TypeFormat) -> Tensor:
    """IQ1: entries have signs, and the second half of the book is shifted down."""
    found = book(x.device)
    shape = (x.shape[0], subs, -1, 8)
    d, m, index = search_ternary(x.view(shape), w.view(shape), found)
    index, scales = index.flatten(1), ((m - 1) / 2).to(torch.int64)
    return pack(fmt, {"d": d, **members(index % found.size, index // found.size, scales, d)})


def _rows(values: Tensor, n: int) -> Tensor:
    return values.reshape(values.shape[0], -1, n)


def _nibbles(scales: Tensor) -> Tensor:
    return joined(_rows(scales, 2), 4)


def _words(signs: Tensor, scales: Tensor) -> Tensor:
    """Four times 7 sign bits and a 4-bit scale, as 4 bytes: [blocks, 32]."""
    return little_endian(joined(_rows(signs, 4), 7) | scales << 28, 4)


def iq2_xxs_members(index: Tensor, signs: Tensor, scales: Tensor, _d: Tensor) -> dict[str, Tensor]:
    parts = [_rows(part.to(torch.uint8), 4) for part in (index, _words(signs, scales))]
    return {"qs": torch.cat(parts, dim=2).flatten(1)}


def iq2_xs_members(index: Tensor, signs: Tensor, scales: Tensor, _d: Tensor) -> dict[str, Tensor]:
    return {"qs": index | signs << 9, "scales": _nibbles(scales)}


def iq2_s_members(index: Tensor, signs: Tensor, scales: Tensor, _d: Tensor) -> dict[str, Tensor]:
    high = joined(_rows(index >> 8, 4), 2)
    return {"qs": torch.cat([index & 255, signs], dim=1), "qh": high, "scales": _nibbles(scales)}


def iq3_xxs_members(index: Tensor, signs: Tensor, scales: Tensor, _d: Tensor) -> dict[str, Tensor]:
    return {"qs": torch.cat([index.to(torch.uint8), _words(signs, scales)], dim=1)}


def iq3_s_members(index: Tensor, signs: Tensor, scales: Tensor, _d: Tensor) -> dict[str, Tensor]:
    high = joined(_rows(index >> 8, 8), 1)
    return {"qs": index & 255, "qh": high, "signs": signs, "scales": _nibbles(scales)}


def _iq1_s(index: Tensor, down: Tensor, scales: Tensor, _d: Tensor) -> dict[str, Tensor]:
    high = joined(_rows(index >> 8, 4), 3)
    return {"qs": index & 255, "qh": high | scales << 12 | down[:, ::4] << 15}


def _iq1_m(index: Tensor, down: Tensor, scales: Tensor, d: Tensor) -> dict[str, Tensor]:
    """The half-precision d has a nibble in each of the four words of scales."""
    bits = d.half().view(torch.int16).to(torch.int64).unsqueeze(1)
    nibbles = bits >> torch.arange(0, 16, 4, device=d.device) & 15
    words = joined(_rows(scales, 4), 3) | nibbles << 12
    high = joined(_rows(index >> 8 | down << 3, 2), 4)
    return {"qs": index & 255, "qh": high, "scales": little_endian(words, 2)}


iq2_xxs = partial(_search, partial(magnitude_book, "IQ2_XXS", 8, 8, 8, 2.0), 8, True, iq2_xxs_members)
iq2_xs = partial(_search, partial(magnitude_book, "IQ2_XS", 8, 8, 8, 2.0), 16, True, iq2_xs_members)
iq2_s = partial(_search, partial(magnitude_book, "IQ2_S", 8, 8, 3, 1.5), 16, False, iq2_s_members)
iq3_xxs = partial(_search, partial(magnitude_book, "IQ3_XXS", 4, 4, 5, 3.0), 8, True, iq3_xxs_members)
iq3_s = partial(_search, partial(magnitude_book, "IQ3_S", 4, 1, 3, 2.5), 8, False, iq3_s_members)
iq1_s = partial(_search_levels, partial(ternary_book, True), 8, _iq1_s)
iq1_m = partial(_search_levels, partial(ternary_book, False), 16, _iq1_m)

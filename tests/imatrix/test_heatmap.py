from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib import image
from numpy.typing import NDArray

from hubquant.imatrix import Entry, ImportanceMatrix, Statistics, statistics
from hubquant.imatrix.heatmap import heatmap

KINDS = ("attn_q", "ffn_down", "ffn_up")


def entries(n_blocks: int, **others: float) -> dict[str, Entry]:
    means = {f"blk.{b}.{kind}.weight": 10.0 ** (i + b % 4) for b in range(n_blocks) for i, kind in enumerate(KINDS)}
    means |= {f"{name}.weight": mean for name, mean in others.items()}
    return {name: Entry(torch.full((1, 8), mean).double(), torch.tensor([1])) for name, mean in means.items()}


def of(entries: dict[str, Entry]) -> Statistics:
    return statistics(ImportanceMatrix(entries, (), 512, 1))


def picture(entries: dict[str, Entry]) -> NDArray[np.float32]:
    return image.imread(BytesIO(heatmap(of(entries), "a model")))


def colours(pixels: NDArray[np.float32]) -> set[tuple[int, ...]]:
    """Those of areas: more pixels than text or a grid line has."""
    values, counts = np.unique((pixels[..., :3] * 255).astype(int).reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(map(int, value)) for value, count in zip(values, counts, strict=True) if count > 800}


def test_every_mean_has_its_colour() -> None:
    found = colours(picture(entries(2)))
    # four decades, from the darkest to the lightest colour of the map, and the white page
    assert {(68, 1, 84), (253, 231, 36), (255, 255, 255)} <= found
    assert len(found) >= 5
    assert (238, 238, 238) not in found


def test_missing_weights_are_hatched() -> None:
    some = entries(3)
    del some["blk.1.ffn_up.weight"]
    assert (238, 238, 238) in colours(picture(some))


def test_weights_of_no_block_have_a_row() -> None:
    without, with_output = picture(entries(3)), picture(entries(3, output=3.0))
    assert with_output.shape[0] > without.shape[0] + 30
    assert picture({"output.weight": entries(0, output=2.0)["output.weight"]}).shape[1] > 400


def test_many_blocks_stay_on_a_page() -> None:
    assert picture(entries(120)).shape[0] < 2000


def test_equal_input_gives_equal_bytes() -> None:
    assert heatmap(of(entries(2)), "x") == heatmap(of(entries(2)), "x")


def test_nothing_to_draw() -> None:
    unseen = {"blk.0.attn_q.weight": Entry(torch.zeros(1, 8).double(), torch.tensor([0]))}
    with pytest.raises(ValueError, match="no weight has data"):
        heatmap(of(unseen), "x")

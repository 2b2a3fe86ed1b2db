"""Sizes as recipes and flags take them."""

from __future__ import annotations

import pytest

from hubquant.commands.flags import split_settings
from hubquant.commands.gguf_files import parse_limit
from hubquant.errors import UserError
from hubquant.recipe.sizes import parse_size

SIZES = {
    "4G": 4 * 10**9,
    "300M": 300 * 10**6,
    "300m": 300 * 10**6,
    " 1.5 GB ": 1_500_000_000,
    "45GiB": 45 * 2**30,
    "1kib": 1024,
    "2T": 2 * 10**12,
}


@pytest.mark.parametrize("text", SIZES)
def test_a_size_is_the_same_wherever_it_is_typed(text: str) -> None:
    limit = parse_limit(text, None, no_tensor_first=False)
    found = (parse_size(text, "publish.shard_size"), split_settings(text, None).max_bytes, limit.max_bytes)
    assert found == (SIZES[text],) * 3


@pytest.mark.parametrize("text", ["", "5", "5X", "0G", "0.0001K", "-4G", "4Gi", "4G\n5G", "1e3G", "9" * 400 + "G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UserError, match="is not a size"):
        parse_size(text, "publish.shard_size")
    with pytest.raises(UserError, match="--split-max-size"):
        split_settings(text, None)
    with pytest.raises(UserError, match="--split-max-size"):
        parse_limit(text, None, no_tensor_first=False)

"""Rules of strangers are regular expressions too."""

from __future__ import annotations

import pytest

from hubquant.errors import MixError
from hubquant.mix.patterns import check_rules
from hubquant.recipe.schema import Rule

NAMES = ["blk.0.ffn_down.weight", "blk.10.attn_output.weight", "a" * 60 + "b"]


@pytest.mark.parametrize("match", ["(a+)+$", "a*a*a*a*a*a*a*a*a*a*a*a*c"])
def test_a_search_without_end_is_refused(match: str) -> None:
    with pytest.raises(MixError, match="2 seconds of computing"):
        check_rules([Rule(match="ffn_(up|down)", type="Q6_K"), Rule(match=match, type="Q6_K")], NAMES)


def test_what_people_write_is_searched() -> None:
    matches = (
        r"blk\.(0|1|2)\.ffn_down",
        r"blk\.\d+\.attn_(q|k)\.weight",
        r"^(output|token_embd)?\.weight$",
        "a.*b.*c.*d.*e",
    )
    check_rules([Rule(match=match, type="Q6_K") for match in matches], NAMES)

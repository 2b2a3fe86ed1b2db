"""Sizes as targets, and the exact choice of types within them."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubquant.errors import HubquantError
from hubquant.mix.budget import (
    ALIGNMENT,
    CANDIDATES,
    Budget,
    as_rules,
    candidate_types,
    choose,
    stored_bytes,
    total,
)
from hubquant.mix.names import check_name, is_name
from hubquant.quants.formats import lookup

SIZES = st.integers(1, 40).map(lambda n: n * ALIGNMENT)
TENSORS = st.lists(
    st.lists(st.tuples(SIZES, st.floats(0, 1)), min_size=1, max_size=4).map(
        lambda found: {f"T{i}": each for i, each in enumerate(found)}
    ),
    min_size=1,
    max_size=5,
).map(lambda found: {f"t{i}": each for i, each in enumerate(found)})


@given(TENSORS, st.floats(0, 1))
def test_the_choice_is_the_best_of_all(tensors: dict[str, dict[str, tuple[int, float]]], share: float) -> None:
    every = [total(tensors, dict(zip(tensors, types, strict=True))) for types in product(*tensors.values())]
    least, most = min(size for size, _ in every), max(size for size, _ in every)
    n_bytes = int(least + share * (most - least))
    size, kld = total(tensors, choose(tensors, n_bytes))
    assert size <= n_bytes
    assert kld == pytest.approx(min(k for s, k in every if s <= n_bytes), abs=1e-6)
    with pytest.raises(ValueError, match="too few"):
        choose(tensors, least - ALIGNMENT)


def test_a_budget_is_met_closely_where_there_are_many_tensors() -> None:
    tensors = {
        f"blk.{i}.ffn_up.weight": {
            type: (stored_bytes((512, 768), type), (1 + i % 7) * 4.0 ** -lookup(type).bits_per_weight)
            for type in CANDIDATES
        }
        for i in range(120)
    }
    most = total(tensors, dict.fromkeys(tensors, "Q8_0"))[0]
    for share in (0.3, 0.5, 0.7):
        assert 0.999 < total(tensors, choose(tensors, int(share * most)))[0] / int(share * most) <= 1


@pytest.mark.parametrize(
    ("text", "said", "n_bytes", "name"),
    [
        ("3.5bpw", "3.5bpw", 437, "max-3_5bpw-Q3_K_M"),
        ("03.50 BPW", "3.5bpw", 437, "max-3_5bpw-Q3_K_M"),
        (".5bpw", None, 0, ""),
        ("0.5bpw", "0.5bpw", 62, "max-0_5bpw-Q3_K_M"),
        ("4.2gib", "4.2GiB", 4_509_715_660, "max-4_2GiB-Q3_K_M"),
        ("10MB", "10MB", 10_000_000, "max-10MB-Q3_K_M"),
        ("100KiB", "100KiB", 102_400, "max-100KiB-Q3_K_M"),
        ("Q4_K_M", None, 0, ""),
    ],
)
def test_sizes_as_they_are_written(text: str, said: str | None, n_bytes: int, name: str) -> None:
    budget = Budget.of(text)
    assert (str(budget) if budget else None) == said
    if budget:
        assert budget.n_bytes(1000) == n_bytes
        assert budget.name("Q3_K_M") == name
        assert is_name(name)
        check_name(name, "Q3_K_M")
        # llama.cpp takes the first file in the alphabet with the type before a point: the plain one
        assert f"model-{name}.gguf" > "model-Q3_K_M.gguf"


def test_nothing_is_no_size() -> None:
    with pytest.raises(HubquantError, match=r"no file is as small as 0\.0bpw"):
        Budget.of("0.0bpw")


def test_types_fit_rows_and_what_is_known_of_columns() -> None:
    whole = candidate_types("blk.0.ffn_up.weight", (64, 512), weighted=True)
    assert list(whole) == list(whole.values()) == list(CANDIDATES)
    plain = candidate_types("blk.0.ffn_up.weight", (64, 512), weighted=False)
    assert set(whole) - set(plain) == {"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}
    short = candidate_types("blk.0.ffn_up.weight", (64, 96), weighted=True)
    assert set(short.values()) == {"IQ4_NL", "Q4_0", "Q5_0", "Q5_1", "Q8_0"}
    assert (short["Q3_K"], short["Q4_K"], short["Q8_0"]) == ("Q4_0", "Q5_0", "Q8_0")
    assert candidate_types("blk.0.ffn_up.weight", (64, 40), weighted=True) == {}


def test_rules_give_each_tensor_its_type_and_fit_no_other() -> None:
    types = {
        "output.weight": "Q6_K",
        "blk.1.attn_q.weight": "Q4_K",
        "blk.11.attn_q.weight": "Q4_K",
        "blk.2.attn_q.weight": "Q3_K",
        "blk.1.attn_q_norm.weight": "Q8_0",
        "enc.blk.1.attn_q.weight": "Q2_K",
    }
    rules = as_rules(types)
    assert len(rules) == 5
    for name, type in types.items():
        assert [rule.type for rule in rules if re.search(rule.match, name)] == [type]
    for other in ("blk.12.attn_q.weight", "blk.1.attn_q.weights", "output_norm.weight"):
        assert not any(re.search(rule.match, other) for rule in rules)

"""Text that is divided into a test and what a matrix grows on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hubquant.calibration.chunks import build, sources_of
from hubquant.calibration.pools import divide
from hubquant.errors import CalibrationError
from hubquant.recipe import TextSource
from hubquant.recipe.schema import ModelReference
from hubquant.sources.open import open_component


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path):  # type: ignore[no-untyped-def]
    return open_component(ModelReference(folder=str(tiny_llama)), None).source.tokenizer()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextSource, TextSource]:
    folder = tmp_path_factory.mktemp("texts")
    for name, word in {"a": "alpha", "b": "beta"}.items():
        (folder / f"{name}.txt").write_text("\n".join(f"{word} {i} is {i * i}" for i in range(400)))
    return TextSource(file=str(folder / "a.txt")), TextSource(file=str(folder / "b.txt"), weight=3)


def rows(ids: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(row[1:].tolist()) for row in ids}


def test_the_earlier_part_is_for_the_test_and_the_later_one_the_pool(tokenizer, texts) -> None:  # type: ignore[no-untyped-def]
    a, b = texts
    whole = [build([text], tokenizer, 32, 1000, 0) for text in texts]
    found = divide([[a, b], [a]], tokenizer, 32, 10, 8, 0)
    assert found.test is not None
    assert len(found.test) == 10
    first, second = (n for n in found.test.shares)
    assert (first, second) == (6, 4)  # 1/4 + 1 and 3/4 of the two mixtures
    assert rows(found.test.ids) == rows(whole[0].ids[:first]) | rows(whole[1].ids[:second])
    both, alone = found.pools
    assert both.shares == (2, 6)
    assert rows(both.ids) == rows(whole[0].ids[first : first + 2]) | rows(whole[1].ids[second : second + 6])
    assert rows(alone.ids) == rows(whole[0].ids[first : first + 8])
    assert sources_of(both.shares)[:4].count(1) == 3
    assert not rows(found.test.ids) & (rows(both.ids) | rows(alone.ids))
    none = divide([[a]], tokenizer, 32, 0, 8, 0)
    assert none.test is None
    assert rows(none.pools[0].ids) == rows(whole[0].ids[:8])


def test_what_a_text_has_too_little_of_comes_from_the_others(tokenizer, texts, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "short.txt").write_text("a few words " * 40)
    short = TextSource(file=str(tmp_path / "short.txt"), weight=9)
    n_short = len(build([short], tokenizer, 32, 1000, 0))
    found = divide([[short, texts[0]]], tokenizer, 32, 10, 30, 0)
    assert found.test is not None
    assert found.test.shares[0] == n_short // 2
    assert found.pools[0].shares == (n_short - n_short // 2, 30 - (n_short - n_short // 2))
    with pytest.raises(CalibrationError, match="too short"):
        divide([[short]], tokenizer, 4096, 1, 1, 0)

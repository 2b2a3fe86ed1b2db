"""When a measurement stops, and what it says then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hubquant.evaluate import Precision, compare, write_baseline
from hubquant.evaluate.blocks import Blocks
from hubquant.evaluate.report_file import open_report
from hubquant.evaluate.stopping import (
    LEAST,
    looks,
    paired_half_width,
    relative_half_widths,
    student,
    visiting_order,
)
from hubquant.models.language_model import LanguageModel
from hubquant.publish.table import divergence_table
from tests.evaluate.test_blocks import skewed
from tests.support.evaluation import counted, disturbed, random_chunks, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [(0.975, 4, 2.7764), (0.975, 19, 2.0930), (0.95, 10, 1.8125), (0.995, 19, 2.8609), (0.975, 1000, 1.9623)],
)
def test_student_is_that_of_the_tables(probability: float, freedom: int, expected: float) -> None:
    assert student(probability, freedom) == pytest.approx(expected, rel=3e-3)


def test_looks_grow_and_end_with_all_chunks() -> None:
    found = looks(100)
    assert found[0] == LEAST
    assert found[-1] == 100
    assert [*found] == sorted(set(found))
    assert looks(3) == [3]
    assert sorted(visiting_order(50)) == [*range(50)] != visiting_order(50) == visiting_order(50)


def test_intervals_are_narrower_for_more_chunks_and_for_less_confidence() -> None:
    few, many = Blocks.of(skewed(30, 100)), Blocks.of(skewed(480, 100))
    wide, narrow = relative_half_widths(few, 0.95), relative_half_widths(many, 0.95)
    assert wide[0] > 2.5 * narrow[0]
    assert wide[1] > 2.5 * narrow[1]
    assert relative_half_widths(few, 0.8) < wide
    assert relative_half_widths(Blocks.of(skewed(1, 9)), 0.95) == (np.inf, np.inf)
    assert relative_half_widths(Blocks.of(torch.zeros(30, 9)), 0.95) == (0, 0)


def test_what_is_paired_is_known_better() -> None:
    values = skewed(60, 100)
    a, b = Blocks.of(values).resample(), Blocks.of(1.1 * values).resample()
    alone = paired_half_width(a, 60, 0.95)
    assert paired_half_width(b - a, 60, 0.95) < alone / 5
    assert paired_half_width(a, 1, 0.95) == np.inf


def test_a_measurement_stops_when_it_is_sure_and_goes_on_after_a_kill(model: LanguageModel, tmp_path: Path) -> None:
    n = 60
    chunks = random_chunks(n, 32, model.model.config.vocab_size)
    texts = ["even", "odd"] * (n // 2)
    with write_baseline(model, chunks, tmp_path / "base.h5", name="tiny", revision="r") as baseline:
        other = disturbed(model, 0.05)
        whole = compare(other, baseline)
        until = Precision(0.9, 0.5)
        report = tmp_path / "report.h5"
        found = compare(other, baseline, texts=texts, until=until, report=report)
        stop = found.stop
        assert stop is not None
        assert stop.reached
        assert LEAST <= stop.chunks < stop.of == n
        assert found.n_tokens == stop.chunks * baseline.n_scored
        assert abs(found.kld.mean - whole.kld.mean) < 0.5 * whole.kld.mean
        with open_report(report) as opened:
            assert len(opened) == stop.chunks
            assert [texts[number] for number in opened.numbers] == [opened.texts[i] for i in opened.text]
        numbers = sorted(visiting_order(n)[: stop.chunks])
        assert [chunk.mean for chunk in found.chunks] == [whole.chunks[number].mean for number in numbers]
        assert f"after {stop.chunks} of {n} chunks" in divergence_table(found)

        calls: list[int] = []
        snapshot = tmp_path / "snapshot"
        with pytest.raises(KeyboardInterrupt):
            compare(counted(other, calls, stop_after=7), baseline, until=until, snapshot=snapshot)
        again = compare(counted(other, calls), baseline, texts=texts, until=until, snapshot=snapshot)
        assert again == found
        assert len(calls) == stop.chunks

        never = compare(other, baseline, until=Precision(0.99, 0.001))
        assert never.stop is not None
        assert not never.stop.reached
        assert never.kld == whole.kld
        assert "60 chunks are too few" in divergence_table(never)

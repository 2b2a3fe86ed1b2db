"""What is told of chunks and of texts that have names, and the file of every token."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from hubquant.errors import EvaluationError
from hubquant.evaluate import Divergence, TokenStatistics, summarize
from hubquant.evaluate.report_file import open_report, write_report
from hubquant.publish.table import by_text, chunk_table, divergence_table
from hubquant.publish.token_plots import plot_by_chunk, plot_distribution
from tests.evaluate.test_blocks import skewed
from tests.support.measured import measured_file

TEXTS = ["de", "en", "de", "", "en"]


def chunks(kld: torch.Tensor) -> list[TokenStatistics]:
    generator = torch.Generator().manual_seed(7)
    found = []
    for each in kld:
        nll = torch.rand(len(each), generator=generator, dtype=torch.float64) * 4
        same = (torch.rand(len(each), generator=generator) < 0.9).double()
        found.append(TokenStatistics(nll + each, nll, each, -0.1 * each, same, 2 * torch.ones_like(each)))
    return found


@pytest.fixture(scope="module")
def measured() -> Divergence:
    return summarize(chunks(skewed(5, 300)), 32_000, TEXTS)


def test_chunks_and_texts_are_told_of(measured: Divergence) -> None:
    kld = skewed(5, 300)
    assert [chunk.mean for chunk in measured.chunks] == pytest.approx(kld.mean(1).tolist())
    assert measured.chunks[1].percentiles[95.0] == pytest.approx(float(kld[1].quantile(0.95)))
    assert measured.texts.keys() == {"de", "en"}
    assert measured.texts["de"].kld.mean == pytest.approx(float(kld[[0, 2]].mean()))
    assert measured.texts["en"].n_tokens == 600
    assert measured.composite_error is not None
    assert 0 < measured.composite_error < measured.composite


def test_a_measurement_is_read_back_and_so_is_an_older_one(measured: Divergence) -> None:
    adapter = TypeAdapter(Divergence)
    assert adapter.validate_json(json.dumps(adapter.dump_python(measured))) == measured
    older = dataclasses.asdict(measured)
    for name in ("composite", "composite_error", "kld_block_error", "chunks", "texts"):
        del older[name]
    read = adapter.validate_json(json.dumps(older))
    assert (read.kld, read.composite, read.chunks) == (measured.kld, None, ())
    assert "composite" not in divergence_table(read)


def test_tables(measured: Divergence) -> None:
    text = divergence_table(measured)
    assert f"{measured.composite:.6f} ± {measured.composite_error:.6f}" in text
    assert f"{measured.kld.mean:.6f} ± {measured.kld_block_error:.6f}" in text
    assert "\nde " in text
    table = chunk_table(measured)
    assert len(table.rows) == 5
    assert table.rows[2][-1] == f"{measured.chunks[2].maximum:.6f}"
    files = [measured_file("Q8_0", 8, 0.001), dataclasses.replace(measured_file("Q4_0", 4, 0.1), divergence=measured)]
    assert by_text(files[:1]) is None
    beside = by_text(files)
    assert beside is not None
    assert beside.columns == ("Type", "de", "en")
    assert beside.rows[0] == ("Q8_0", "–", "–")


def test_the_file_has_every_token_and_every_chunk(measured: Divergence, tmp_path: Path) -> None:
    every, path = chunks(skewed(5, 300)), tmp_path / "report.h5"
    write_report(path, every, measured, range(5), TEXTS)
    first = path.read_bytes()
    write_report(path, every, measured, range(5), TEXTS)
    assert path.read_bytes() == first
    with h5py.File(path) as file:
        for name in ("nll", "nll_base", "kld", "delta_p", "same_top", "entropy"):
            expected = np.stack([getattr(chunk, name) for chunk in every])
            np.testing.assert_allclose(file[name], expected, rtol=1e-6)
        assert list(file["by_chunk/p99.9"]) == [chunk.percentiles[99.9] for chunk in measured.chunks]
        assert json.loads(file.attrs["divergence"])["composite"] == measured.composite
    with open_report(path) as report:
        assert (report.texts, report.text.tolist()) == (["de", "en", ""], [0, 1, 0, 2, 1])
        distribution = plot_distribution(report, measured, "a file")
        assert distribution == plot_distribution(report, measured, "a file")
        by_chunk = plot_by_chunk(measured, report.texts, report.text.tolist(), "a file")
    assert {picture[:4] for picture in (distribution, by_chunk)} == {b"\x89PNG"}
    assert [each.name for each in tmp_path.iterdir()] == ["report.h5"]
    (tmp_path / "none.h5").write_bytes(b"nothing")
    with pytest.raises(EvaluationError, match="no report"), open_report(tmp_path / "none.h5"):
        pass

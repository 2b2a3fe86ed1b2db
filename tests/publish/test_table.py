"""Recommendations, tables, checks and the plot, from measurements."""

from __future__ import annotations

import dataclasses
import struct
import sys
from pathlib import Path

import pytest

from hubquant.errors import UserError
from hubquant.evaluate import TensorCheck
from hubquant.evaluate.speed import Speed
from hubquant.llamacpp.process import HOW_TO_ADD
from hubquant.llamacpp.runtime import RuntimeCheck
from hubquant.publish.checks import llama_cpp_checks
from hubquant.publish.plot import plot
from hubquant.publish.recommendation import MeasuredFile, recommend
from hubquant.publish.report import FileReport, Report
from hubquant.publish.table import (
    COLUMNS,
    IN_LLAMA_CPP,
    MISSING,
    OF_FIDELITIES,
    OF_SIMILARITIES,
    OF_SPEEDS,
    TOKENS,
    WITH_IMATRIX,
    narrow,
    plain,
    table,
)
from tests.support.measured import divergence, measured_file

FILES = [
    measured_file("Q8_0", 8.5, 0.0014),
    measured_file("Q6_K", 6.6, 0.0055),
    measured_file("Q4_K_M", 4.9, 0.028),
    measured_file("Q4_0", 4.9, 0.07),
    measured_file("Q3_K_M", 4.0, 0.084),
    measured_file("Q2_K", 3.2, 0.33),
    measured_file("IQ1_S", 1.9, 2.2),
    measured_file("F16", 16, None),
]

OF_OTHERS = {*OF_SIMILARITIES, *OF_FIDELITIES, WITH_IMATRIX, *OF_SPEEDS}


def sentence(*files: MeasuredFile) -> str:
    """Of the first file."""
    return recommend(files)[files[0].file]


def test_recommendations_follow_the_measurements() -> None:
    assert recommend(FILES) == {
        "M-Q8_0.gguf": "hardly measurable losses",
        "M-Q6_K.gguf": "very small losses",
        "M-Q4_K_M.gguf": "recommended: small losses",
        "M-Q4_0.gguf": "noticeable losses; Q4_K_M is not larger and nearer to the source",
        "M-Q3_K_M.gguf": "noticeable losses",
        "M-Q2_K.gguf": "large losses: only when memory is short",
        "M-IQ1_S.gguf": "very large losses",
        "M-F16.gguf": "not measured",
    }
    assert recommend(FILES[4:]) | recommend([]) == recommend(FILES[4:])
    assert not any("recommended" in text for text in recommend(FILES[4:]).values())


def test_a_recommended_file_finds_the_same_top_token_nearly_always() -> None:
    assert sentence(measured_file("Q2_K", 3, 0.0185, 0.885)) == "small losses"
    assert sentence(measured_file("Q2_K", 3, 0.0185, 0.92)).startswith("recommended")


def test_nothing_is_claimed_that_the_error_does_not_bear() -> None:
    assert sentence(measured_file("Q8_0", 8, 0.0012, 1.0, n=1530)) == "not judged: 1,530 tokens are too few"
    assert sentence(measured_file("Q3_K", 8, 0.0497, 0.95)) == "noticeable losses"
    assert sentence(measured_file("Q3_K", 8, 0.0497, 0.95, n=10_000_000)) == "recommended: small losses"
    assert sentence(measured_file("Q3_K", 8, 0.01, 0.902, n=4000)) == "small losses"


def test_a_file_is_called_worse_only_where_the_difference_is_larger_than_its_error() -> None:
    near, smaller = measured_file("Q4_0", 4.9, 0.0281), measured_file("Q4_K_M", 4.8, 0.028)
    assert "nearer to the source" not in sentence(near, smaller)
    assert "Q4_K_M is not larger" in sentence(dataclasses.replace(near, divergence=FILES[3].divergence), smaller)


def test_the_report_fits_a_terminal_and_recommends_what_is_published() -> None:
    worst = TensorCheck("blk.0.attn_q.weight", "Q4_K", 0.05, 0.1)
    gates = {"Q4_K_M": 0.01}
    files = [FileReport(file, worst_tensor=worst, gate=gates.get(file.type)) for file in FILES[:4]]
    lines = Report("M", Path("out"), files).text().splitlines()
    assert max(map(len, lines)) <= 80
    assert "Q4_K_M is not published: its mean KLD is above 0.01" in lines
    assert "Q4_0    noticeable losses" in lines  # nothing smaller that is published is nearer
    assert "Q6_K    recommended: very small losses" in lines


def test_a_file_for_a_fork_is_not_recommended() -> None:
    fork = measured_file("Q3_K_HIFI", 4, 0.01, fork="alice/llama.cpp")
    assert recommend([fork, measured_file("Q4_K_M", 5, 0.02)]) == {
        "M-Q3_K_HIFI.gguf": "small losses",
        "M-Q4_K_M.gguf": "recommended: small losses",
    }


def test_tables() -> None:
    made = table(FILES)
    assert made.columns == tuple(name for name in COLUMNS if name not in (IN_LLAMA_CPP, *OF_OTHERS))
    assert dict(zip(made.columns, made.rows[2], strict=True)) == {
        "File": "M-Q4_K_M.gguf",
        "Type": "Q4_K_M",
        "Size": "4.90 GB",
        "bpw": "4.90",
        "Mean KLD": "0.0280 ± 0.0002",
        "99.9 % KLD": "0.0559",
        "Same top token": "97.50 ± 0.16 %",
        "PPL ratio": "1.0284 ± 0.0002",
        "Recommendation": "recommended: small losses",
    }
    assert made.rows[-1][4:] == ("–", "not measured", "–", "–", "–")
    assert table(FILES[-1:]).columns == ("File", "Type", "Size", "bpw")


def test_the_table_of_a_terminal_fits_80_columns() -> None:
    files = [*FILES, measured_file("MXFP4_MOE", 12.5, 0.0000417, 0.9943), measured_file("Q8_0", 0.004, 12.345)]
    text = plain(table(files, narrow(files))).splitlines()
    assert len(text) == 1 + len(files)
    assert max(map(len, text)) <= 80
    end = text[0].index("bpw") + len("bpw")
    assert all(line[end - 1 : end + 1].strip() == line[end - 1] for line in text)


def test_what_llama_cpp_was_not_asked_is_said_with_the_way_to_ask_it() -> None:
    [passed] = llama_cpp_checks(FILES)
    assert "every file" in passed
    assert f"for {7 * len(FILES)} of {8 * len(FILES)} prompts" in passed
    missing = [dataclasses.replace(file, runtime=RuntimeCheck(skipped="xllamacpp is not installed")) for file in FILES]
    [first] = llama_cpp_checks(missing)
    assert first.startswith("Not checked, whether llama.cpp loads every file")
    assert first.endswith("xllamacpp is not installed; " + HOW_TO_ADD + ".")
    assert "pip install 'hubquant[llamacpp]'" in first
    some = llama_cpp_checks([missing[0], *FILES[1:3]])
    assert "loads Q6_K, Q4_K_M," in some[0]
    assert "loads Q8_0," in some[1]
    assert llama_cpp_checks([measured_file("Q3_K_HIFI", 4, 0.01, fork="alice/llama.cpp")]) == []


def test_the_plot_is_a_png_with_the_same_bytes_each_time() -> None:
    png = plot(FILES, "M")
    assert png == plot(list(reversed(FILES)), "M")
    assert png != plot(FILES[:4], "M")
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png[16:24]) == (960, 600)
    assert b"tIME" not in png
    assert b"Software" not in png
    assert plot(FILES[:1], "one file")[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="measured"):
        plot(FILES[-1:], "M")


def report(*files: MeasuredFile, gate: float | None = None) -> Report:
    worst = TensorCheck("blk.0.attn_q.weight", "Q4_K", 0.05, 0.1)
    return Report("M <b>", Path("out"), [FileReport(file, worst_tensor=worst, gate=gate) for file in files])


def test_a_report_as_numbers() -> None:
    made = report(FILES[2], FILES[-1], gate=0.01).table
    assert made.rows[0]["kld_mean"] == FILES[2].divergence.kld.mean  # type: ignore[union-attr]
    frame = made.to_pandas()
    assert list(frame["type"]) == ["Q4_K_M", "F16"]
    assert list(frame["size"]) == [4_900_000_000, 16_000_000_000]
    assert list(frame["passed"]) == [False, True]
    assert frame["ppl_ratio"][0] == pytest.approx(1.0284, abs=1e-4)
    assert frame["same_top"].isna().tolist() == [False, True]


def test_without_pandas_the_numbers_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pandas is not installed"):
        report(*FILES).table.to_pandas()


def test_a_report_in_a_notebook() -> None:
    html = report(*FILES, gate=1.0)._repr_html_()
    assert html.count("<tr>") == 1 + len(FILES)
    assert '<td style="text-align: right">0.0280 ± 0.0002</td>' in html
    assert "recommended: small losses" in html
    assert "IQ1_S is not published: its mean KLD is above 1.0" in html
    assert '<img src="data:image/png;base64,iVBOR' in html
    assert "<b>" not in html
    assert str(report(*FILES)) == report(*FILES).text()
    assert "<img" not in report(FILES[-1])._repr_html_()


def test_a_rate_of_tokens_stands_where_something_writes() -> None:
    drawing = dataclasses.replace(FILES[0], speed=Speed(1.5, 10**9, None, 2, "cpu"))
    writing = dataclasses.replace(FILES[1], speed=Speed(1.5, 10**9, 30.0, 2, "cpu"))
    assert TOKENS not in table([drawing, FILES[1]]).columns
    made = table([drawing, writing, FILES[2]])
    assert [dict(zip(made.columns, row, strict=True))[TOKENS] for row in made.rows] == [MISSING, "30.0", MISSING]


def test_what_llama_cpp_gives_stands_beside() -> None:
    files = [dataclasses.replace(FILES[0], in_llamacpp=divergence(0.05)), *FILES[1:]]
    made = table(files)
    assert made.columns == tuple(name for name in COLUMNS if name not in OF_OTHERS)
    assert [row[-1] for row in made.rows[:2]] == ["0.0500 ± 0.0003", "–"]
    assert narrow(files)[-1] == IN_LLAMA_CPP
    assert narrow(FILES)[-1] == "PPL ratio"

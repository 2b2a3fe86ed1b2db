from __future__ import annotations

import struct

import pytest
import torch

from hubquant.evaluate import Divergence, summarize
from hubquant.evaluate.divergence import TokenStatistics
from hubquant.evaluate.plot import plot
from hubquant.evaluate.report import MeasuredFile, plain, recommend, significant, table


def divergence(kld: float) -> Divergence:
    n = 200
    nll = torch.linspace(1, 3, n, dtype=torch.float64)
    spread = torch.linspace(0, 2 * kld, n, dtype=torch.float64)
    same_top = torch.cat([torch.ones(n - 5), torch.zeros(5)]).double()
    return summarize(TokenStatistics(nll + kld, nll, spread, -0.1 * spread, same_top))


def measured(type: str, size: float, kld: float | None) -> MeasuredFile:
    return MeasuredFile(f"M-{type}.gguf", type, int(size * 1e9), size, None if kld is None else divergence(kld))


FILES = [
    measured("Q8_0", 8.5, 0.0014),
    measured("Q6_K", 6.6, 0.0055),
    measured("Q4_K_M", 4.9, 0.028),
    measured("Q4_0", 4.9, 0.07),
    measured("Q3_K_M", 4.0, 0.084),
    measured("Q2_K", 3.2, 0.33),
    measured("IQ1_S", 1.9, 2.2),
    measured("F16", 16, None),
]


def test_recommendations_follow_the_measurements() -> None:
    assert recommend(FILES) == {
        "M-Q8_0.gguf": "as good as the source",
        "M-Q6_K.gguf": "hardly distinguishable from the source",
        "M-Q4_K_M.gguf": "recommended: small losses",
        "M-Q4_0.gguf": "noticeable losses; Q4_K_M is not larger and nearer to the source",
        "M-Q3_K_M.gguf": "noticeable losses",
        "M-Q2_K.gguf": "large losses: only when memory is short",
        "M-IQ1_S.gguf": "very large losses",
        "M-F16.gguf": "not measured",
    }
    assert recommend(FILES[4:]) | recommend([]) == recommend(FILES[4:])
    assert recommend(FILES[4:])["M-Q3_K_M.gguf"] == "noticeable losses; the best of these"


def test_tables() -> None:
    made = table(FILES)
    row = dict(zip(made.columns, made.rows[2], strict=True))
    assert row == {
        "File": "M-Q4_K_M.gguf",
        "Type": "Q4_K_M",
        "Size": "4.90 GB",
        "bpw": "4.90",
        "Mean KLD": "0.0280",
        "99.9 % KLD": "0.0559",
        "Same top token": "97.50 %",
        "PPL ratio": "1.0284 ± 0.0000",
        "Recommendation": "recommended: small losses",
    }
    assert made.rows[-1][4:8] == ("–",) * 4
    text = plain(made).splitlines()
    assert len(text) == 1 + len(FILES)
    assert {line.index(" bpw"[1:]) if i == 0 else None for i, line in enumerate(text)} >= {text[0].index("bpw")}
    assert all(line[text[0].index("Recommendation") - 1] == " " for line in text)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0283, "0.0283"), (1.3931, "1.39"), (0.0000123, "0.0000123"), (0.0, "0"), (123.4, "123")]
)
def test_significant(value: float, text: str) -> None:
    assert significant(value) == text


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

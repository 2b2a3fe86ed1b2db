"""docs/python.md: its examples run, and it names everything that is public."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import hubquant
from hubquant import imatrix, mix, quants

DOCUMENT = Path(__file__).parents[1] / "docs" / "python.md"
TEXT = DOCUMENT.read_text("utf-8")
PUBLIC = {
    imatrix: ("save", "merge", "statistics", "difference"),
    quants: ("quantize", "dequantize", "implemented", "needs_importance", "TYPES"),
    mix: ("assign", "file_type", "FTYPES"),
}


def test_the_examples_run(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_llama, tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    blocks = list(re.finditer(r"```python\n(.*?)```", TEXT, re.DOTALL))
    assert len(blocks) == TEXT.count("```python")
    names: dict[str, Any] = {"__name__": "document"}
    for block in blocks:
        above = TEXT.count("\n", 0, block.start(1))
        exec(compile("\n" * above + block[1], str(DOCUMENT), "exec"), names)
    made = {"my-model-F16.gguf", "calibrated.gguf", "my-model-F16-Q8_0.gguf", "my-model-F16-Q4_K_M.gguf"}
    made |= {"my-model-GGUF", "total.gguf", "total.dat"}
    made |= {"en.txt", "de.txt", "calib.txt", "refined.gguf", "my-model-refined.yaml"}
    assert {path.name for path in tmp_path.iterdir()} == {"my-model"} | made
    assert imatrix.difference(hubquant.load_imatrix("total.gguf"), names["total"]).within(0)


def test_it_names_everything_that_is_public() -> None:
    named = set(re.findall(r"`([\w.]+)", TEXT))
    assert {f"hubquant.{name}" for name in hubquant.__all__} <= named
    for room, names in PUBLIC.items():
        assert room.__name__ in named
        assert {*names} <= named
        assert {*names} <= {*room.__all__}

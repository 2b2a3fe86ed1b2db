"""docs/notebook.ipynb: it runs in a kernel, shows tables and the plot, and is stored without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

# Into a file, so that no client's timing decides what is seen of it.
BAR = """
import sys
from hubquant.bars import shown
told = sys.stdout
with open("bar.txt", "w", encoding="utf-8") as sys.stdout, shown("auto").bar("counting", 8, "chunks") as advance:
    advance(1)
sys.stdout = told
"""
NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def outputs(folder: Path) -> dict[str, list[Any]]:
    """Of each cell, by its id."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(BAR, id="bar"))
    client = NotebookClient(notebook, timeout=300, iopub_timeout=60, resources={"metadata": {"path": str(folder)}})
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TQDM_DISABLE", raising=False)  # of a command that another test called in this process
        client.execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def shown(outputs: list[Any]) -> str:
    """What the last expression is shown as."""
    return str(outputs[-1].data.get("text/html", outputs[-1].data["text/plain"]))


def said(outputs: list[Any]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_it_is_stored_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert len(cells) == 5
    assert not any(cell.outputs or cell.execution_count for cell in cells)


def test_plans_and_reports_are_drawn(outputs: dict[str, list[Any]]) -> None:
    assert "hubquant-demo-Q2_K.gguf</td>" in shown(outputs["plan"])
    assert "<td" in shown(outputs["run"])
    assert "data:image/png;base64," in shown(outputs["run"])
    assert "kld_mean" in shown(outputs["table"])
    assert "blk." in shown(outputs["imatrix"])
    assert "Q4_K" in shown(outputs["file"])


def test_steps_and_bars_are_seen_and_libraries_are_not(outputs: dict[str, list[Any]], folder: Path) -> None:
    assert "  quantize  Q8_0, Q4_K_M, Q2_K\n" in said(outputs["run"])
    assert "counting:   0%|" in (folder / "bar.txt").read_text(encoding="utf-8")
    assert [output for outs in outputs.values() for output in outs if output.get("name") == "stderr"] == []

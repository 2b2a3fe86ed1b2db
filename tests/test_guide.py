"""docs/guide.md: every line in it is typed, one after the other, with the demo model."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib import resources
from pathlib import Path
from textwrap import dedent

import pytest

from hubquant.calibration.bundled import bundled_path
from tests.support.cli import hubquant

TEXT = (Path(__file__).parents[1] / "docs" / "guide.md").read_text("utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
PLUGIN = """
    from plugin_base import DataSourcePluginBase


    class MySource(DataSourcePluginBase):
        def __init__(self):
            super().__init__("mine")
            self.schema = {{"content": "text"}}

        def load_data(self, lang, num_samples=200, skip_samples=0):
            parts = open({path!r}, encoding="utf-8").read().split("\\n\\n")
            return [{{"text": part}} for part in parts[lang == "de" :: 2]][skip_samples:][:num_samples]
"""


@pytest.mark.slow
def test_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(str(resources.files("hubquant") / "data" / "demo"), "my-model")
    text = bundled_path("calibration").read_text("utf-8")[:120_000]
    Path("text.txt").write_text(text, "utf-8")
    Path("my_source.py").write_text(dedent(PLUGIN.format(path=str(tmp_path / "text.txt"))), "utf-8")
    [recipe] = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    Path("recipe.yaml").write_text(recipe.replace("my-model", "{folder: my-model}"), "utf-8")
    assert len(LINES) == TEXT.count("\nhubquant ")
    printed = {}
    for line in LINES:
        program, *arguments = shlex.split(line)
        assert program == "hubquant"
        outcome = hubquant(*arguments)
        assert outcome.code == 0, f"{line}\n{outcome.err}"
        printed[line] = outcome.out
    assert {"pool.txt", "pool-test.txt", "baseline.h5", "initial.h5", "recipe-imatrix.gguf", "larger.gguf"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert "recipe-imatrix.gguf" in Path("recipe.yaml").read_text("utf-8")
    assert (tmp_path / "published" / "README.md").is_file()
    [both] = [out for line, out in printed.items() if "files/my-model-Q2_K-larger.gguf" in line and "run" in line]
    without, with_matrix = (float(re.findall(r"\d+\.\d+", row)[0]) for row in both.splitlines()[1:])
    assert with_matrix < without

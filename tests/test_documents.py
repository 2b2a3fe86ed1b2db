"""What documents name exists: files, folders, commands and links; and CONTRIBUTING.md has the floors of the house."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.test_house import FLOORS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix() for part in ("*.md", "docs/*.md", "recipes/*.md") for path in ROOT.glob(part)
)
FOLDERS = ("hubquant", "tests", "docs", "scripts", "benchmarks", "recipes", "spaces")


def anchors(document: Path) -> set[str]:
    """The fragments that its headings have on GitHub."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if "://" in target:
            continue
        file, _, fragment = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        assert not fragment or fragment in anchors(linked), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_and_folders_that_are_named_exist(name: str) -> None:
    for named in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", (ROOT / name).read_text("utf-8")):
        there = named.removesuffix("/__pycache__")  # which Python and numba make when they need it
        assert "NAME" in named or "FAMILY" in named or (ROOT / there).exists(), named


@pytest.mark.parametrize("name", DOCUMENTS)
def test_modules_that_are_to_be_run_exist(name: str) -> None:
    for module in re.findall(r"python -m ((?:tests|scripts|benchmarks)[\w.]*)", (ROOT / name).read_text("utf-8")):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_contributing_has_the_floors_of_the_house() -> None:
    rows = re.findall(r"^\| (`[^|]+`) \| ", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == [{*floor} for floor in FLOORS]


def test_what_github_and_pre_commit_read_is_yaml_and_runs_what_is_there() -> None:
    for path in [*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml"]:
        assert yaml.safe_load(path.read_text("utf-8")), path
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    steps = workflow["jobs"]["ci"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'requires-python = ">={workflow["jobs"]["ci"]["strategy"]["matrix"]["python"][0]}"' in project


def test_ci_runs_the_readmes_test_line() -> None:
    line = re.search(r"^pip install .* && pytest.*$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert line
    assert line[0] in (ROOT / ".ci/run").read_text("utf-8").replace("install -q ", "install ").splitlines()

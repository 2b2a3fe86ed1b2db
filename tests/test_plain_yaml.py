"""Small YAML that asks for much is refused at once; what recipes and cards are written in is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hubquant.errors import RecipeError
from hubquant.hub.front_matter import read_front_matter
from hubquant.plain_yaml import load_yaml
from hubquant.recipe import load_recipe

HOSTILE = {
    "brackets": "[" * 20_000,
    "braces": "{a: " * 20_000,
    "closed brackets": "[" * 500 + "]" * 500,
    "dashes": "- " * 20_000 + "x",
    "indented keys": "\n".join(" " * i + "a:" for i in range(1000)),
    "question marks": "? " * 20_000,
    "keys": "\n".join(f"k{i}: 1" for i in range(100_000)),
    "a number in base 60": "a: " + "1:" * 300_000 + "1",
    "a long number": "a: " + "9" * 5000,
    "a long fraction": "a: " + "9:" * 4000 + "9.5",
    "a date that is none": "a: 2001-99-99",
    "aliases": "a: &a [x]\nb: [*a, *a]",
    "a tag": "a: !!python/name:os.system",
    "a key that is a list": "? [a]\n: 1",
    "a key that is a mapping": "{{a: 1}: 1}",
    "a key twice": "a: 1\nb: 2\na: 3",
    "nul": "a: \0",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_it_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(HOSTILE[kind], most_tokens=20_000)
    path = tmp_path / "recipe.yaml"
    path.write_text(HOSTILE[kind])
    with pytest.raises(RecipeError):
        load_recipe(str(path))
    read_front_matter(f"---\n{HOSTILE[kind]}\n---\n")


def test_it_takes_no_time() -> None:
    """All of it together, in seconds of the processor that a busy machine does not lengthen."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (20, 20))\n"
        "from tests.test_plain_yaml import HOSTILE, load_yaml, yaml\n"
        "for text in HOSTILE.values():\n"
        "    try: load_yaml(text, most_tokens=200_000)\n"
        "    except yaml.YAMLError: pass\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


def test_what_is_written_is_read() -> None:
    text = "a: {b: [1, 2.5, x, null]}\nc:\n  - d: 2020-01-01\n    e: 'y'\n"
    assert load_yaml(text, most_tokens=100) == yaml.safe_load(text)
    card = "model-index:\n" + "- results:\n  - {task: x, value: 1}\n" * 2000
    assert len(read_front_matter(f"---\ntags: [a]\n{card}tags: [b]\n---\n")["model-index"]) == 2000

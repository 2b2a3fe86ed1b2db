"""Which file may import which: dependencies point down, without circles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import hubquant
from tests.support.house import House, circles

FLOORS = (
    {"__main__", "__init__", "cli", "ui"},
    {"api", "commands", "jobs", "bars"},
    {"pipeline"},
    {"backends"},
    {"sources", "observe", "publish", "llamacpp", "evaluate"},
    {"convert"},
    {"models"},
    {"vocab", "imatrix", "calibration", "mix"},
    {"engine", "gguf_file", "checkpoint", "hub", "recipe"},
    {"quants"},
    {
        *("errors", "disk", "version", "units", "printable", "typed", "plain_yaml", "panics", "limited", "devices"),
        *("plugins", "recent", "signals", "redaction", "environ"),
    },
)
"""Each folder and file of the package imports from its own floor and from those below it, as CONTRIBUTING.md says."""


@pytest.fixture(scope="module")
def house() -> House:
    return House.of(Path(hubquant.__file__).parent)


def test_no_circle_of_files(house: House) -> None:
    assert house.circles_of_files() == []


def test_no_circle_of_folders(house: House) -> None:
    assert house.circles_of_rooms() == []


def test_imports_point_down(house: House) -> None:
    assert house.climbs(FLOORS) == []


def test_modules_are_short(house: House) -> None:
    assert house.long_modules() == []


def test_dataclasses_of_engine_and_pipeline_are_narrow(house: House) -> None:
    assert house.wide_dataclasses({"engine", "pipeline"}) == []


def test_only_hub_talks_to_the_hub(house: House) -> None:
    assert house.importers("huggingface_hub").keys() == {"hub"}


def test_only_the_command_line_and_the_bars_of_the_api_print(house: House) -> None:
    assert house.printers().keys() == {"bars", "cli"}
    users = {name for name, module in house.modules.items() if "hubquant.bars" in house.imported(module)}
    assert {name.rpartition(".")[0] for name in users} == {"hubquant.api"}


def test_vectors_know_no_search_and_exact_ones_no_better(house: House) -> None:
    room = "hubquant.quants.cpu"
    forbidden = {"vector": ("exact", "best"), "exact": ("best",)}
    for folder, others in forbidden.items():
        inside = [module for name, module in house.modules.items() if name.startswith(f"{room}.{folder}.")]
        assert len(inside) > 5
        for module in inside:
            assert not [
                name for name in house.imported(module) if name.startswith(tuple(f"{room}.{o}" for o in others))
            ]


def test_engine_imports_no_torch(house: House) -> None:
    assert "engine" not in house.importers("torch")
    modules = [name for name, module in house.modules.items() if module.room == "engine"]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def make(root: Path, **files: str) -> House:
    """A package of ``files``: ``low__a`` is low/a.py."""
    for name, text in {"__init__": "", **files}.items():
        path = root / "small" / f"{name if name.startswith('__') else name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), "utf-8")
    for folder in (root / "small").iterdir():
        if folder.is_dir():
            (folder / "__init__.py").touch()
    return House.of(root / "small")


def test_a_circle_is_found_inside_functions_too(tmp_path: Path) -> None:
    house = make(
        tmp_path,
        low__a="import small.low.b",
        low__b="def f():\n    from . import c",
        low__c="async def f():\n    if True:\n        from small.low.a import anything",
        low__d="from small.low import a",
    )
    assert house.circles_of_files() == [["small.low.a", "small.low.b", "small.low.c"]]
    assert house.circles_of_rooms() == []


def test_a_circle_of_folders_without_one_of_files_is_found(tmp_path: Path) -> None:
    house = make(tmp_path, one__a="from small.two import b", two__b="", two__c="from ..one.d import e", one__d="e = 1")
    assert house.circles_of_files() == []
    assert house.circles_of_rooms() == [["one", "two"]]


def test_imports_for_types_make_no_circle(tmp_path: Path) -> None:
    text = """
        import typing
        if typing.TYPE_CHECKING:
            from small.low.b import B
    """
    assert make(tmp_path, low__a=text, low__b="from small.low.a import A").circles_of_files() == []


def test_what_stands_in_the_else_of_type_checking_counts(tmp_path: Path) -> None:
    text = """
        if TYPE_CHECKING:
            B = int
        else:
            from small.low.b import B
    """
    assert len(make(tmp_path, low__a=text, low__b="from small.low.a import A").circles_of_files()) == 1


def test_a_climb_is_found(tmp_path: Path) -> None:
    house = make(tmp_path, high__a="import small.low.b", low__b="", low__c="def f():\n    from small.high.a import g")
    assert house.climbs([{"__init__"}, {"high"}, {"low"}]) == ["small.low.c imports small.high.a"]
    assert house.climbs([{"__init__"}, {"high", "low"}]) == []


def test_types_of_a_higher_floor_are_a_climb_too(tmp_path: Path) -> None:
    house = make(tmp_path, high__a="", low__b="if TYPE_CHECKING:\n    from small.high.a import A")
    assert house.climbs([{"__init__"}, {"high"}, {"low"}]) == ["small.low.b imports small.high.a"]


def test_a_folder_without_a_floor_is_found(tmp_path: Path) -> None:
    house = make(tmp_path, high__a="import small.new.b", new__b="import small.high.a")
    assert house.climbs([{"__init__"}, {"high"}]) == ["new stands on no floor"]


def test_a_long_module_is_found(tmp_path: Path) -> None:
    assert make(tmp_path, short="\n" * 400, long="\n" * 401).long_modules() == ["small.long"]


def test_a_wide_dataclass_is_found(tmp_path: Path) -> None:
    fields = [f"    f{i}: int" for i in range(13)]
    lines = ["@dataclasses.dataclass(frozen=True)", "class Wide:", *fields]
    lines += ["@dataclass", "class Narrow:", *fields[:12], "    shared: ClassVar[int] = 1", "class Other:", *fields]
    house = make(tmp_path, engine__a="\n".join(lines), low__a="\n".join(lines))
    assert house.wide_dataclasses({"engine"}) == ["small.engine.a.Wide"]


def test_importers_and_printers_are_found(tmp_path: Path) -> None:
    house = make(
        tmp_path,
        hub__a="import torch.nn, torchvision",
        low__a="def f():\n    from torch import nn\n    print(nn)",
        low__b="from sys import stderr",
        low__c="import sys\nsys.stdout.write('')",
        low__d="import torchvision\nprint = 1",
    )
    assert house.importers("torch") == {"hub": {"small.hub.a"}, "low": {"small.low.a"}}
    assert house.printers() == {"low": {"small.low.a", "small.low.b", "small.low.c"}}


def test_circles_of_a_graph() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": [], "e": ["f"], "f": ["e", "a"]}) == [
        ["b", "c"],
        ["e", "f"],
    ]

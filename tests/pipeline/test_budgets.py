"""Files of a given size, from a recipe to what is published."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hubquant import plan as hubquant_plan
from hubquant.engine.local import make
from hubquant.engine.progress import Silent
from hubquant.engine.store import Store
from hubquant.evaluate.sensitivity import Sensitivities
from hubquant.gguf_file import GGUFFile
from hubquant.mix import FTYPES
from hubquant.models.tiny import build
from hubquant.pipeline.sensitivity import SensitivityTask
from hubquant.recipe import load_recipe
from hubquant.recipe.schema import NamedType
from tests.support.cli import hubquant
from tests.support.localhub import LocalHub

SETTINGS = ("calibration.chunk_size=64", "calibration.chunks=4", "evaluate.chunk_size=64", "evaluate.chunks=2")
SMALL = [part for setting in (*SETTINGS, "evaluate.engine=torch") for part in ("--set", setting)]
TYPES = ["--types", "6bpw,Q4_K_M"]


@pytest.fixture(scope="module")
def line(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("budgets")
    return [str(tiny_llama), "--out", str(folder / "out"), "--store", str(folder / "store"), *SMALL]


def planned(*line: str) -> dict[str, Any]:
    outcome = hubquant("plan", *line, "--json")
    assert outcome.code == 0, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


@pytest.fixture(scope="module")
def before(line: list[str]) -> dict[str, Any]:
    return planned(*line, *TYPES)


@pytest.fixture(scope="module")
def out(line: list[str], before: dict[str, Any]) -> Path:  # noqa: ARG001
    outcome = hubquant("run", *line, *TYPES)
    assert outcome.code == 0, outcome.err
    return Path(line[2])


def test_a_plan_knows_the_size_before_the_types(before: dict[str, Any]) -> None:
    assert [step["name"] for step in before["steps"] if not step["done"]][:2] == ["imatrix", "measure"]
    (file, stock) = before["files"]
    assert (file["name"], stock["type"]) == ("tiny-llama-max-6bpw-Q5_K_M.gguf", "Q4_K_M")
    assert 5.9 < file["bpw"] <= 6
    assert before["budgets"][0]["expected_kld"] is None
    assert any("when the tensors were measured" in note for note in before["notes"])


def test_the_file_is_as_large_as_was_asked_for(line: list[str], before: dict[str, Any], out: Path) -> None:
    path = out / before["files"][0]["name"]
    after = planned(*line, *TYPES)
    assert all(step["done"] for step in after["steps"] if step["name"] != "card")
    (file, _), (chosen,) = after["files"], after["budgets"]
    assert path.stat().st_size == file["size"]
    assert 5.9 < file["bpw"] <= 6
    made = GGUFFile.open(path)
    assert file["tensors"] == {name: entry.type for name, entry in made.tensors.items()}
    assert made.metadata["general.file_type"].value == FTYPES["Q5_K_M"].id
    assert {name: each["type"] for name, each in chosen["tensors"].items()}.items() <= file["tensors"].items()
    assert chosen["expected_kld"] == pytest.approx(sum(each["expected_kld"] for each in chosen["tensors"].values()))
    sizes = [each["expected_kld"] for each in chosen["frontier"]]
    assert sizes == sorted(sizes, reverse=True)
    shown = hubquant("plan", *line, *TYPES).out
    assert "6bpw: mean KLD of about" in shown
    assert "other sizes: " in shown


def test_other_budgets_need_no_other_measurement(line: list[str], out: Path) -> None:  # noqa: ARG001
    after = planned(*line, "--types", "5.5bpw,1.2MB", "--set", "quantize.rules=[{match: ffn_down, type: Q8_0}]")
    assert [step["done"] for step in after["steps"] if step["name"] == "measure"] == [True]
    for file, chosen in zip(after["files"], after["budgets"], strict=True):
        assert {type for name, type in file["tensors"].items() if "ffn_down" in name} == {"Q8_0"}
        assert chosen["unpinned_kld"] < chosen["expected_kld"]
    assert after["files"][0]["bpw"] <= 5.5
    assert after["files"][1]["size"] <= 1_200_000


def test_layers_may_be_left_out(line: list[str], out: Path) -> None:  # noqa: ARG001
    plain = planned(*line, "--types", "6bpw")
    other = planned(*line, "--types", "6bpw", "--set", "quantize.prune_layers=[0]")
    assert [step["done"] for step in other["steps"] if step["name"] == "measure"] == [True]
    assert 5.9 < other["files"][0]["bpw"] <= 6
    assert other["budgets"][0]["expected_kld"] < plain["budgets"][0]["expected_kld"]


def test_feedback_is_measured_too(line: list[str], out: Path, tmp_path: Path) -> None:  # noqa: ARG001
    plain = planned(*line, "--types", "6bpw")
    fed_back = [line[0], "--out", str(tmp_path), *line[3:], "--types", "6bpw", "--set", "quantize.rounding=feedback"]
    before = planned(*fed_back)
    assert [step["done"] for step in before["steps"] if step["name"] == "measure"] == [False]
    assert before["budgets"][0]["expected_kld"] is None
    assert hubquant("run", *fed_back, "--no-eval").code == 0
    [found] = planned(*fed_back)["budgets"]
    assert 0 < found["expected_kld"] < plain["budgets"][0]["expected_kld"]


def test_fresh_makes_everything_once(line: list[str], out: Path, tmp_path: Path) -> None:
    outcome = hubquant("run", line[0], "--out", str(tmp_path), *line[3:], *TYPES, "--no-eval", "--fresh")
    assert outcome.code == 0, outcome.err
    steps = [text for text in outcome.err.splitlines() if text.startswith(("imatrix: ", "measure: ", "quantize: "))]
    assert [text.split(":")[0] for text in steps if "done before" not in text] == ["imatrix", "measure", "quantize"]
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.gguf")} == {
        path.name: path.read_bytes() for path in out.glob("*.gguf")
    }


def test_from_the_hub_to_the_hub(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    hub.add("org/tiny", {path.name: path.read_bytes() for path in tiny_llama.iterdir()})
    out = tmp_path / "out"
    outcome = hubquant("run", "org/tiny", "--types", "6bpw", "--push", "alice/tiny-GGUF", "--out", str(out), *SMALL)
    assert outcome.code == 0, outcome.err
    name = "tiny-max-6bpw-Q5_K_M.gguf"
    assert hub.content("alice/tiny-GGUF", name) == (out / name).read_bytes()
    assert "max-6bpw-Q5_K_M" in hub.content("alice/tiny-GGUF", "README.md").decode()
    steps = planned("hub:alice/tiny-GGUF", "--out", str(tmp_path / "again"))["steps"]
    assert not [step for step in steps if step["name"] == "measure"]


def test_what_is_published_holds_the_choice(out: Path, tmp_path: Path, before: dict[str, Any]) -> None:
    name = before["files"][0]["name"]
    named = load_recipe(str(out / "recipe.yaml")).quantize.types[0]
    assert isinstance(named, NamedType)
    assert (named.name, named.type) == ("max-6bpw-Q5_K_M", "Q5_K_M")
    assert "max-6bpw-Q5_K_M: " in (out / "README.md").read_text()
    again = hubquant(
        "run", str(out / "recipe.yaml"), "--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")
    )
    assert again.code == 0, again.err
    assert "measure" not in again.err
    assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes()


def test_gates_hold_for_sizes(line: list[str], out: Path, tmp_path: Path) -> None:  # noqa: ARG001
    gate = ["--set", "gates.kld_mean={6bpw: 0.0}"]
    outcome = hubquant("run", line[0], "--out", str(tmp_path), *line[3:], "--types", "6.0bpw", *gate)
    assert outcome.code == 1, outcome.err
    assert "max-6bpw-Q5_K_M is not published: its mean KLD is above 0.0" in outcome.out


@pytest.mark.parametrize(
    ("types", "named"),
    [
        ("1bpw", "no file of this model is as small as 1bpw"),
        ("2GiB", "no file of this model is as large as 2GiB"),
        ("0bpw", "no file is as small as 0bpw"),
    ],
)
def test_what_no_file_can_be(types: str, named: str, line: list[str]) -> None:
    outcome = hubquant("plan", *line, "--types", types)
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert named in outcome.err


def test_where_files_of_known_types_are_made(tiny_llama: Path, tmp_path: Path) -> None:
    outcome = hubquant("quantize", str(tiny_llama), "-t", "5bpw", "-o", str(tmp_path))
    assert outcome.code == 2
    assert "hubquant run MODEL --types 5bpw" in outcome.err


class _Killed(Exception):
    pass


class _Until(Silent):
    """Fails when so much was measured."""

    def __init__(self, n: int) -> None:
        self.n, self.total, self.seen = n, 0, list[int]()

    @contextmanager
    def bar(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        if name == "measure":
            self.total = total

        def advance(n: int) -> None:
            if name == "measure":
                self.seen.append(n)
                if sum(self.seen) >= self.n:
                    raise _Killed

        yield advance


@pytest.mark.parametrize(("rounding", "n"), [("nearest", 60), ("feedback", 5)])
def test_a_killed_measurement_goes_on(rounding: str, n: int, line: list[str], tmp_path: Path) -> None:
    overrides = [*SETTINGS, "imatrix.skip=true", "evaluate.skip=true", f"quantize.rounding={rounding}"]
    plan = hubquant_plan(
        line[0], types="6bpw", overrides=overrides, store=tmp_path, out=tmp_path / "out", progress=None
    )
    task = plan.tasks.sensitivity
    assert task is not None
    store, first, second = Store(tmp_path), _Until(n), _Until(1000)
    make(task.inputs.values(), store, Silent())
    with pytest.raises(_Killed):
        make([task], store, first)
    make([task], store, second)
    assert 0 < second.seen[0] <= n
    assert sum(second.seen) == first.total == second.total
    whole = Store(tmp_path / "other")
    make([task], whole, Silent())
    assert task.read(store.path(task)) == task.read(whole.path(task))


def measured(model: Path, folder: Path) -> Sensitivities:
    overrides = [*SETTINGS, "imatrix.skip=true", "evaluate.skip=true"]
    store = Store(folder / "store")
    plan = hubquant_plan(
        str(model), types="6bpw", overrides=overrides, store=store.root, out=folder / "out", progress=None
    )
    task = plan.tasks.sensitivity
    assert isinstance(task, SensitivityTask)
    make([task], store, Silent())
    found = task.read(store.path(task))
    assert {each.name for each in found.tensors} == set(task.measured)
    assert all(each.kld > 0 for each in found.tensors)
    return found


FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {},  # experts, which transformers fuses
    "gemma3_text": {"tie_word_embeddings": True, "query_pre_attn_scalar": 64},
    "gpt2": {},  # matrices that lie the other way
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_of_other_architectures_are_measured(family: str, tmp_path: Path) -> None:
    measured(build(family, tmp_path / family, **FAMILIES[family]), tmp_path)


def test_tensors_of_a_gguf_file_are_measured_as_those_of_its_source(tiny_llama: Path, tmp_path: Path) -> None:
    floats = tmp_path / "floats.gguf"
    assert hubquant("convert", str(tiny_llama), "-o", str(floats), "--type", "F32").code == 0
    of_file, of_source = measured(floats, tmp_path / "file"), measured(tiny_llama, tmp_path / "source")
    for one, other in zip(of_file.tensors, of_source.tensors, strict=True):
        assert one.name == other.name
        assert one.kld == pytest.approx(other.kld, rel=1e-3)
        assert one.errors == pytest.approx(other.errors, rel=1e-6)

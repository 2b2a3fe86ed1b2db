"""What a change of the recipe makes again: exactly what depends on it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

import hubquant
from hubquant.engine.local import make
from hubquant.engine.progress import Silent
from hubquant.engine.store import RECORD, Store
from hubquant.engine.task import Task, closure
from hubquant.gguf_file import GGUFFile
from hubquant.pipeline.plan import Plan
from hubquant.pipeline.run import execute
from tests.support.processes import exit_code

MATRIX, BASELINE = "imatrix", "baseline"
TYPES = ("F16", "Q8_0", "Q4_K_M")
SMALL = (
    "calibration.chunk_size=32",
    "calibration.chunks=2",
    "evaluate.chunk_size=32",
    "evaluate.chunks=2",
    "evaluate.engine=torch",
    f"quantize.types=[{', '.join(TYPES)}]",
)


def of_type(ftype: str) -> set[str]:
    """All that is made for a file."""
    return {f"{kind} {ftype}" for kind in ("file", "verification", "evaluation", "runtime")}


FIRST = {MATRIX, BASELINE}.union(*map(of_type, TYPES))


class Runs:
    """Runs of one model with one store."""

    def __init__(self, model: Path, root: Path) -> None:
        self.model, self.root, self.store = model, root, Store(root / "store")

    def plan(self, *overrides: str, out: str = "out") -> Plan:
        return hubquant.plan(
            str(self.model), overrides=[*SMALL, *overrides], out=self.root / out, store=self.store.root
        )

    def __call__(self, *overrides: str, out: str = "out") -> set[str]:
        """What a run made."""
        before, plan = self._records(), self.plan(*overrides, out=out)
        execute(plan, self.store, Silent())
        names = {self.store.path(task) / RECORD: name(task) for task in closure(plan.tasks)}
        return {names[path] for path, state in self._records().items() if before.get(path) != state}

    def _records(self) -> dict[Path, int]:
        return {path: path.stat().st_ino for path in self.store.root.glob(f"*/*/{RECORD}")}


def name(task: Task[object]) -> str:
    return task.kind if task.kind in (MATRIX, BASELINE) else f"{task.kind} {task.detail}"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".hubquant" not in path.parts
    }


@pytest.fixture(scope="module")
def first(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output and the store of a first run."""
    root = tmp_path_factory.mktemp("first")
    runs = Runs(tiny_llama, root)
    made = make(runs.plan().tasks.goals, runs.store, Silent())
    assert {name(task) for task in made} == FIRST
    assert len(made) == len(FIRST)
    assert runs() == set()
    return root


@pytest.fixture
def runs(first: Path, tiny_llama: Path, tmp_path: Path) -> Runs:
    """After the first, in a copy of its store and its output."""
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    return Runs(tiny_llama, tmp_path)


def test_a_second_run_makes_nothing(runs: Runs) -> None:
    plan = runs.plan()
    assert make(plan.tasks.goals, runs.store, Silent()) == []
    assert (plan.estimate.disk_bytes, plan.estimate.seconds) == (0, 0)
    assert {step.name for step in plan.steps if not step.done} == {"card"}
    before = contents(runs.root / "out")
    assert runs() == set()
    assert contents(runs.root / "out") == before


def test_a_second_output_is_links_and_a_card(runs: Runs) -> None:
    assert runs(out="second") == set()
    first, second = runs.root / "out", runs.root / "second"
    assert contents(second) == contents(first)
    links = [path for path in second.glob("*.gguf") if path.stat().st_nlink > 1]
    assert len(links) == len(TYPES) + 1  # and the matrix


def test_another_type_makes_its_own(runs: Runs) -> None:
    assert runs(f"quantize.types=[{', '.join([*TYPES, 'Q6_K'])}]") == of_type("Q6_K")
    assert runs(f"quantize.types=[{TYPES[0]}]") == set()
    assert (runs.root / "out" / "tiny-llama-Q6_K.gguf").exists()


def test_another_evaluation_text_is_another_baseline_and_nothing_of_the_files(runs: Runs) -> None:
    assert runs("evaluate.chunks=1") == {BASELINE, *(f"evaluation {ftype}" for ftype in TYPES)}


def test_another_calibration_makes_again_what_records_its_matrix(runs: Runs) -> None:
    """In the exact mode Q8_0 has the same tensors whatever the matrix; what differs are the keys that name it, which
    llama-quantize writes too: it is another file. A file of floats has no such keys and stays."""
    exact, out = "quantize.mode=exact", runs.root / "out"
    runs(exact, "quantize.types=[F16, Q8_0]")
    before = contents(out)
    made = runs(exact, "quantize.types=[F16, Q8_0]", "calibration.chunks=1")
    assert made == {MATRIX, *of_type("Q8_0")}
    assert contents(out)["tiny-llama-F16.gguf"] == before["tiny-llama-F16.gguf"]
    (runs.root / "before.gguf").write_bytes(before["tiny-llama-Q8_0.gguf"])
    now, earlier = GGUFFile.open(out / "tiny-llama-Q8_0.gguf"), GGUFFile.open(runs.root / "before.gguf")
    assert all((now.data(tensor) == earlier.data(tensor)).all() for tensor in now.tensors)
    differing = {key for key, value in now.metadata.items() if value != earlier.metadata[key]}
    assert differing == {"quantize.imatrix.chunks_count", "hubquant.calibration_sha256"}
    assert runs("calibration.chunks=1") == of_type("Q8_0") | of_type("Q4_K_M")  # in the best mode, of the same matrix


def test_without_a_matrix_a_file_of_floats_is_the_same(runs: Runs) -> None:
    assert runs("imatrix.skip=true") == of_type("Q8_0") | of_type("Q4_K_M")


def test_another_rule_makes_files_again_and_neither_matrix_nor_baseline(runs: Runs) -> None:
    assert runs("quantize.rules=[{match: ffn_down, type: Q6_K}]") == set().union(*map(of_type, TYPES))
    assert runs() == set()


def test_what_the_card_and_the_gates_say_makes_nothing(runs: Runs) -> None:
    assert runs("gates.kld_mean={Q8_0: 9}", "quantize.allow_requantize=true") == set()


def test_a_baseline_is_made_only_where_something_is_to_be_compared(runs: Runs) -> None:
    shutil.rmtree(runs.store.root / "baseline")
    assert {step.name for step in runs.plan().steps if not step.done} == {"card"}
    assert runs() == set()
    assert runs(out="second") == set()
    assert runs(f"quantize.types=[{TYPES[0]}, Q6_K]") == {BASELINE, *of_type("Q6_K")}


def test_a_file_that_is_gone_is_made_again_and_not_measured_again(runs: Runs) -> None:
    before = contents(runs.root / "out")
    runs.store.forget(runs.plan().tasks.files[1].file)
    assert runs() == {"file Q8_0"}
    assert contents(runs.root / "out") == before


def test_weights_that_change_in_place_are_another_model(runs: Runs, tiny_llama: Path) -> None:
    runs.model = Path(shutil.copytree(tiny_llama, runs.root / "tiny-llama"))
    assert runs("evaluate.skip=true", "quantize.types=[Q8_0]") == {MATRIX, "file Q8_0", "verification Q8_0"}
    assert runs("evaluate.skip=true", "quantize.types=[Q8_0]") == set()
    os.utime(runs.model / "model.safetensors")
    again = runs("evaluate.skip=true", "quantize.types=[Q8_0]")
    assert again == {MATRIX, "file Q8_0", "verification Q8_0"}


def _execute(plan: Path, store: Path, report: Path) -> None:
    found = execute(pickle.loads(plan.read_bytes()), Store(store), Silent())
    report.write_text(json.dumps(found.as_dict()))


def test_a_plan_runs_in_another_process(runs: Runs, tmp_path: Path) -> None:
    plan = runs.plan(f"quantize.types=[{TYPES[0]}, Q6_K]", "calibration.chunks=1", out="there")
    copy = pickle.loads(pickle.dumps(plan))
    assert [task.key for task in closure(copy.tasks)] == [task.key for task in closure(plan.tasks)]
    assert copy.as_dict() == plan.as_dict()
    (tmp_path / "plan").write_bytes(pickle.dumps(plan))
    assert exit_code(_execute, tmp_path / "plan", runs.store.root, tmp_path / "report") == 0
    assert [file["type"] for file in json.loads((tmp_path / "report").read_text())["files"]] == ["F16", "Q6_K"]
    assert make(plan.tasks.goals, runs.store, Silent()) == []
    assert {path.name for path in (runs.root / "there").glob("*.gguf")} == {
        "imatrix.gguf",
        "tiny-llama-F16.gguf",
        "tiny-llama-Q6_K.gguf",
    }

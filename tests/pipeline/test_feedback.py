"""Files whose weights are rounded with error feedback: nearer to the source, as large, and the same after kills."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hubquant.backends.gguf.feedback import FEEDBACK as JOURNAL
from hubquant.backends.gguf.feedback import Journal, Rounded, read_rounded
from hubquant.gguf_file import GGUFFile
from tests.support import processes
from tests.support.cli import hubquant
from tests.support.conversion import build_uneven
from tests.support.processes import command

FEEDBACK = ("--set", "quantize.rounding=feedback")
FEW = ["calibration.chunk_size=64", "calibration.chunks=16", "evaluate.chunk_size=64", "evaluate.chunks=2"]
SETTINGS = [part for setting in (*FEW, "evaluate.engine=torch") for part in ("--set", setting)]
KILLS = 4


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.gguf")}


def run(model: Path | str, types: str, out: Path, *options: str) -> dict[str, dict]:  # type: ignore[type-arg]
    """What was measured of each type."""
    made = hubquant("run", str(model), "--types", types, *SETTINGS, *options, "--out", str(out), "--json")
    assert made.code == 0, made.err
    return {file["type"]: file for file in json.loads(made.out)["files"]}


def test_files_are_nearer_to_the_source_and_as_large(tiny_llama: Path, tmp_path: Path) -> None:
    types = "F16,Q4_0,IQ4_NL"
    usual = run(tiny_llama, types, tmp_path / "usual")
    found = run(tiny_llama, types, tmp_path / "fed-back", *FEEDBACK)
    assert files(tmp_path / "usual")["tiny-llama-F16.gguf"] == files(tmp_path / "fed-back")["tiny-llama-F16.gguf"]
    assert found["F16"]["fed_back"] is None
    for type in ("Q4_0", "IQ4_NL"):
        assert usual[type]["fed_back"] is None
        fed_back = found[type]["fed_back"]
        assert fed_back["n_matrices"] == 2 * 7 + 2  # the output layer and the embedding too
        assert 0 < fed_back["share"] < 0.9
        assert len(fed_back["nearest"]) < 7
        assert {name for name, share in fed_back["by_text"].items() if share < 1} == {
            "evaluation text",
            "held-out calibration text",
        }
        file = GGUFFile.open(tmp_path / "fed-back" / f"tiny-llama-{type}.gguf")
        assert file.metadata["hubquant.rounding"].value == "feedback"
        other = GGUFFile.open(tmp_path / "usual" / f"tiny-llama-{type}.gguf")
        assert {name: entry.type for name, entry in file.tensors.items()} == {
            name: entry.type for name, entry in other.tensors.items()
        }
    card = (tmp_path / "fed-back" / "README.md").read_text()
    assert "rounded with error feedback" in card
    assert "rounding: feedback" in (tmp_path / "fed-back" / "recipe.yaml").read_text()


def test_a_file_that_is_worse_on_other_text_stays_without(tiny_llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "one.txt"
    text.write_text("a " * 40_000)
    calibration = ("--set", f"calibration.sources=[{{file: {text}}}]")
    usual = run(tiny_llama, "IQ4_NL", tmp_path / "usual", *calibration)["IQ4_NL"]
    found = run(tiny_llama, "IQ4_NL", tmp_path / "fed-back", *calibration, *FEEDBACK)["IQ4_NL"]
    assert files(tmp_path / "fed-back") == files(tmp_path / "usual")
    assert found["divergence"]["kld"] == usual["divergence"]["kld"]
    left = found["fed_back"]["by_text"]
    assert left["held-out calibration text"] < 1 <= left["evaluation text"]
    assert "stayed without error feedback" in (tmp_path / "fed-back" / "README.md").read_text()


def test_threads_give_the_same_bytes(tiny_llama: Path, tmp_path: Path, store: Path) -> None:
    for threads in ("1", "2"):
        options = ("--threads", threads, "--store", str(tmp_path / f"store-{threads}"))
        run(tiny_llama, "Q4_1", tmp_path / threads, *FEEDBACK, *options, "--set", "evaluate.skip=true")
    assert files(tmp_path / "1") == files(tmp_path / "2")
    assert not store.exists()


def test_what_a_killed_process_wrote_is_left_out(tmp_path: Path) -> None:
    journal = Journal({tmp_path: {"a": "Q4_0", "b": "Q5_0"}})
    journal.add(Rounded("a", 0, "Q4_0", 0.2, 0.1))
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"name": "b", "mat\n')
    journal.add(Rounded("a", 0, "Q4_0", 0.2, 0.05))
    journal.add(Rounded("b", 0, "Q4_0", 0.2, 0.1))
    assert read_rounded(tmp_path) == [Rounded("a", 0, "Q4_0", 0.2, 0.05)]


@pytest.mark.slow
def test_experts_have_moments_of_their_own(tmp_path: Path) -> None:
    sizes = {"num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "norm_topk_prob": True}
    model = build_uneven("qwen3_moe", tmp_path / "tiny-moe", **sizes)
    found = run(model, "Q4_K_M", tmp_path / "out", *FEEDBACK)["Q4_K_M"]["fed_back"]
    assert found["n_matrices"] > 3 * 16
    assert found["share"] < 1


@pytest.mark.slow
def test_a_killed_run_gives_the_same_bytes(tmp_path: Path) -> None:
    moments = random.Random(0)
    line = (
        "run",
        "quickstart",
        "--types",
        "Q2_K,Q4_K_M",
        *SETTINGS,
        *FEEDBACK,
        "--set",
        "evaluate.skip=true",
        "--quiet",
    )
    places = {name: ("--out", str(tmp_path / name), "--store", str(tmp_path / f"{name}-store")) for name in "ab"}
    whole = processes.start(command, *line, *places["a"])
    whole.join()
    assert whole.exitcode == 0
    for _ in range(KILLS):
        process = processes.start(command, *line, *places["b"])
        process.join(moments.uniform(5, 15))
        process.kill()
        process.join()
    process = processes.start(command, *line, *places["b"])
    process.join()
    assert process.exitcode == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--mode", "exact"), "contradict each other"),
        (("--set", "calibration.chunks=1"), "raise calibration.chunks"),
    ],
)
def test_mistakes_are_told_before_any_work(
    options: tuple[str, ...], what: str, tiny_llama: Path, tmp_path: Path
) -> None:
    line = ["run", str(tiny_llama), "--types", "Q4_0", *SETTINGS, *FEEDBACK, *options]
    outcome = hubquant(*line, "--out", str(tmp_path / "out"))
    assert outcome.code == 2
    assert what in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_denoiser_is_refused(tmp_path: Path) -> None:
    outcome = hubquant("plan", "quickstart-diffusion", "--types", "Q4_0", *FEEDBACK, "--out", str(tmp_path / "out"))
    assert outcome.code == 2
    assert "rounding" in outcome.err

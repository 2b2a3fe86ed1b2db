"""``hubquant evaluate run --engine``: a file's weights in transformers, the file in llama.cpp, and between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import hubquant

FEW = ("--chunks", "3", "--chunk-size", "64")


@pytest.fixture(scope="module")
def made(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert hubquant("quantize", str(tiny_llama), "-t", "F16,Q8_0", "-o", str(folder)).code == 0
    assert hubquant("evaluate", "baseline", str(tiny_llama), "-o", str(folder / "base.h5"), *FEW).code == 0
    return folder


def measured(made: Path, *arguments: str) -> list[dict[str, Any]]:
    files = [str(made / f"tiny-llama-{type}.gguf") for type in ("F16", "Q8_0")]
    outcome = hubquant("evaluate", "run", *files, "-b", str(made / "base.h5"), "--json", *arguments)
    assert outcome.code == 0, outcome.err
    found: list[dict[str, Any]] = json.loads(outcome.out)
    return found


def test_both_engines_agree_but_for_what_llama_cpp_rounds(made: Path) -> None:
    found = measured(made, "--engine", "both")
    kld = {(Path(each["file"]).stem[-4:], each["measured"]): each["kld"]["mean"] for each in found}
    assert list(kld) == [
        (name, what) for name in ("-F16", "Q8_0") for what in ("weights", "in llama.cpp", "between both")
    ]
    floor = kld["-F16", "between both"]
    assert 0 < floor < 1e-4
    assert abs(kld["-F16", "weights"] - kld["-F16", "in llama.cpp"]) < 2 * floor
    assert kld["Q8_0", "in llama.cpp"] > kld["Q8_0", "weights"]
    assert kld["Q8_0", "between both"] > 3 * floor
    alone = measured(made, "--engine", "llamacpp")
    assert [each["kld"] for each in alone] == [each["kld"] for each in found[1::3]]
    table = hubquant(
        "evaluate", "run", str(made / "tiny-llama-F16.gguf"), "-b", str(made / "base.h5"), "--engine", "both"
    ).out
    assert [line.split("  ")[0] for line in table.splitlines()[1:]] == [
        f"tiny-llama-F16.gguf, {what}" for what in ("weights", "in llama.cpp", "between both")
    ]


def test_every_engine_stops_when_it_is_sure_enough(made: Path, tiny_llama: Path) -> None:
    line = ("evaluate", "run", str(made / "tiny-llama-Q8_0.gguf"), "-b", str(tiny_llama), "--chunks", "30")
    outcome = hubquant(*line, "--chunk-size", "32", "--engine", "both", "--margin", ".9", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    stops = [each["stop"] for each in found]
    assert [each["measured"] for each in found] == ["weights", "in llama.cpp", "between both"]
    assert all(20 <= stop["chunks"] < 30 and stop["of"] == 30 for stop in stops)
    assert [each["n_tokens"] for each in found] == [15 * stop["chunks"] for stop in stops]


def test_a_model_that_is_streamed_is_compared_with_its_file_in_llama_cpp(made: Path, tiny_llama: Path) -> None:
    line = ("evaluate", "run", str(made / "tiny-llama-Q8_0.gguf"), "-b", str(tiny_llama), *FEW)
    ways = [hubquant(*line, "--engine", "llamacpp", "--way", way, "--json") for way in ("stored", "streamed")]
    assert ways[1].code == 0, ways[1].err
    stored, streamed = (json.loads(way.out) for way in ways)
    assert streamed["kld"]["mean"] == pytest.approx(stored["kld"]["mean"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-b", "{base}", "--engine", "both", "-o", "x.h5"), "--out and --plot are of one engine"),
        (("-b", "{model}", "--engine", "both", "--way", "streamed"), "needs the file as a whole, in floats"),
        (("-b", "{model}", "--margin", ".1", "--way", "streamed"), "measured on all chunks"),
    ],
)
def test_mistakes(made: Path, tiny_llama: Path, arguments: tuple[str, ...], message: str) -> None:
    names = [each.format(base=made / "base.h5", model=tiny_llama) for each in arguments]
    outcome = hubquant("evaluate", "run", str(made / "tiny-llama-F16.gguf"), *names)
    assert outcome.code == 2
    assert outcome.is_one_message()
    assert message in outcome.err


def test_a_recipe_may_leave_llama_cpp_out(tiny_llama: Path, tmp_path: Path) -> None:
    few = [f"{part}.{name}" for part in ("calibration", "evaluate") for name in ("chunks=2", "chunk_size=64")]
    settings = [f"--set={setting}" for setting in (*few, "evaluate.engine=torch")]
    outcome = hubquant("run", str(tiny_llama), "--types", "Q8_0", "--out", str(tmp_path / "out"), *settings, "--json")
    assert outcome.code == 0, outcome.err
    [file] = json.loads(outcome.out)["files"]
    assert file["divergence"]
    assert file["in_llamacpp"] is None

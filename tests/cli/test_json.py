"""Every command at work: ``--json`` gives one document on stdout, JSON lines on stderr; ``--quiet`` nothing there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import choices
from tests.support.cli import Outcome, commands, hubquant
from tests.support.localhub import LocalHub

TEXT = "A text to measure on, of a few words that are said again and again. " * 60
SMALL = (
    "--set calibration.chunks=2 --set calibration.chunk_size=32 --set evaluate.chunks=2 --set evaluate.chunk_size=32"
)
LINES = {  # in an order in which each finds what it needs
    "convert": "{model} -o {out}/model.gguf",
    "inspect": "{out}/model.gguf",
    "detect": "{model}",
    "imatrix collect": "{model} -f {out}/text.txt --chunks 2 --chunk-size 32 -o {out}/a.gguf",
    "imatrix convert": "{out}/a.gguf -o {out}/a.dat",
    "imatrix show": "{out}/a.dat",
    "imatrix merge": "{out}/a.gguf {out}/a.gguf -o {out}/b.gguf",
    "imatrix diff": "{out}/a.gguf {out}/a.gguf",
    "quantize": "{model} -t Q4_0 --imatrix {out}/a.gguf -o {out}/q4_0.gguf",
    "gguf split": "{out}/q4_0.gguf -o {out}/s --split-max-tensors 20",
    "gguf merge": "{out}/s-00001-of-00002.gguf -o {out}/m.gguf",
    "gguf set": "{out}/m.gguf general.author me --in-place",
    "gguf unset": "{out}/m.gguf general.architecture -o {out}/n.gguf",
    "gguf new-metadata": "{out}/m.gguf --general-name me -o {out}/n.gguf",
    "gguf hash": "{out}/m.gguf",
    "gguf dump": "{out}/s-00001-of-00002.gguf",
    "gguf copy-types": "{out}/q4_0.gguf {out}/model.gguf --recipe",
    "dataset build": "-f {out}/text.txt --tokenizer {model} -o {out}/calib.txt",
    "evaluate baseline": "{model} -f {out}/text.txt --chunks 2 --chunk-size 32 -o {out}/a.h5",
    "evaluate join": "{out}/a.h5 {out}/later.h5 -o {out}/joined.h5",
    "evaluate run": "{out}/q4_0.gguf --baseline {out}/a.h5 -o {out}/report.h5 --plot {out}/plots --by-chunk",
    "evaluate compare": "{out}/a.h5 {out}/a.h5",
    "evaluate ppl": "{out}/q4_0.gguf -f {out}/text.txt --chunks 2 --chunk-size 32",
    "evaluate hellaswag": "{out}/q4_0.gguf -f {out}/hellaswag.txt --tasks 2",
    "evaluate winogrande": "{out}/q4_0.gguf -f {out}/winogrande.csv --tasks 2",
    "evaluate multiple-choice": "{out}/q4_0.gguf -f {out}/choices.bin --tasks 2",
    "refine": "{model} --type Q2_K --sizes 64,128 --set evaluate.chunks=2 --set calibration.chunk_size=32 "
    "-o {out}/refined.gguf",
    "plan": f"{{model}} --types Q8_0 {SMALL} -o {{out}}/made",
    "run": f"{{model}} --types Q8_0 {SMALL} -o {{out}}/made",
    "compare": f"{{model}} --types Q8_0 {SMALL}",
    "batch": f"{{out}}/models.txt --types Q8_0 {SMALL} -o {{out}}/many",
    "watch": "watched --once",
    "tune": "{model} --context 32 --seconds 0",
    "backends": "",
    "env": "",
    "store list": "",
    "publish": "{out}/made --to me/made --dry-run",
    "store prune": "--older 0s",
}


@pytest.fixture(scope="module")
def outcomes(
    tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory, hub_server: LocalHub
) -> dict[str, tuple[Outcome, Outcome]]:
    """Of every command with ``--json``, and of the same line again with ``--quiet``."""
    out = tmp_path_factory.mktemp("out")
    (out / "text.txt").write_text(TEXT, "utf-8")
    choices.write_hellaswag(out / "hellaswag.txt", 3)
    choices.write_winogrande(out / "winogrande.csv", 3)
    choices.write_choices(out / "choices.bin", 3)
    hub_server.add("watched/tiny", tiny_llama)
    (out / "models.txt").write_text(f"{tiny_llama}\n")
    found = {}
    later = f"{tiny_llama} -f {out / 'text.txt'} --chunks 2 --chunk-size 32 --from-chunk 2 -o {out / 'later.h5'}"
    assert hubquant("evaluate", "baseline", *later.split()).code == 0
    for command, line in LINES.items():
        words = [*command.split(), *line.format(model=tiny_llama, out=out).split()]
        found[command] = hubquant(*words, "--json"), hubquant(*words, "--quiet")
    return found


def test_every_command_has_a_line() -> None:
    assert LINES.keys() == commands().keys() - {"ui"}  # which runs until it is ended: tests/ui


@pytest.mark.parametrize("command", LINES)
def test_json_is_one_document(command: str, outcomes: dict[str, tuple[Outcome, Outcome]]) -> None:
    outcome, _ = outcomes[command]
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("\n") == 1
    assert json.loads(outcome.out)
    assert all("event" in json.loads(line) for line in outcome.err.splitlines())


@pytest.mark.parametrize("command", LINES)
def test_quiet_says_nothing_but_the_result(command: str, outcomes: dict[str, tuple[Outcome, Outcome]]) -> None:
    _, outcome = outcomes[command]
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.strip()


def test_long_work_tells_of_itself(outcomes: dict[str, tuple[Outcome, Outcome]]) -> None:
    """Or else the lines on stderr would be right for want of any."""
    events = {json.loads(line)["event"] for line in outcomes["run"][0].err.splitlines()}
    assert {"step", "doing"} <= events

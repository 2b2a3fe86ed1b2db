"""The mistakes of a new user, typed at the installed command and in this process: one message, exit code 2."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import Outcome, hubquant, installed

GROUPS = ("imatrix", "evaluate", "gguf")
COMMANDS = (
    *("run", "plan", "convert", "quantize", "inspect", "publish"),
    *(f"imatrix {name}" for name in ("collect", "merge", "convert", "show", "diff")),
    *(
        f"evaluate {name}"
        for name in ("baseline", "run", "compare", "ppl", "hellaswag", "winogrande", "multiple-choice")
    ),
    *(f"gguf {name}" for name in ("split", "merge", "set", "unset", "new-metadata", "hash", "dump", "copy-types")),
)


def is_usage_error(outcome: Outcome) -> bool:
    return outcome.code == 2 and outcome.is_one_message() and outcome.out == "" and "  next: " in outcome.err


def test_the_installed_command_shows_its_help() -> None:
    alone, asked = installed(), installed("-h")
    assert (alone.code, alone.out, asked.code, asked.err) == (2, "", 0, "")
    assert alone.err == asked.out
    assert "Usage: hubquant" in asked.out


def test_the_installed_command_refuses_what_it_does_not_know() -> None:
    outcome = installed("rnu", "quickstart")
    assert is_usage_error(outcome), outcome.err
    assert "did you mean hubquant run?" in outcome.err
    assert is_usage_error(installed("run", "quickstart", "--typos", "Q8_0"))


def test_as_a_module_it_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "hubquant", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("hubquant ")


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_alone_shows_its_help(group: str) -> None:
    outcome = hubquant(group)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"Usage: hubquant {group}" in outcome.err


@pytest.mark.parametrize("words", [["--"], ["imatrix", "--"]])
def test_the_end_of_options_alone_is_no_command(words: list[str]) -> None:
    outcome = hubquant(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("Usage: hubquant")


@pytest.mark.parametrize("command", [*COMMANDS, *GROUPS])
def test_every_command_has_help_in_both_spellings(command: str) -> None:
    short, long = hubquant(*command.split(), "-h"), hubquant(*command.split(), "--help")
    assert (short.code, short.err) == (0, "")
    assert short.out == long.out
    assert short.out.startswith(f"Usage: hubquant {command} ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_is_missing(command: str) -> None:
    outcome = hubquant(*command.split())
    assert is_usage_error(outcome), outcome.err
    assert f"write: hubquant {command} " in outcome.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_an_option_that_it_does_not_have(command: str) -> None:
    outcome = hubquant(*command.split(), "--jsno")
    assert is_usage_error(outcome), outcome.err
    assert "did you mean --json?" in outcome.err
    outcome = hubquant(*command.split(), "--qqqqqqqq")
    assert is_usage_error(outcome), outcome.err
    assert f"see hubquant {command} --help" in outcome.err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("foo", "the commands are run, plan"),
        ("Run x", "did you mean hubquant run?"),
        ("imatrix colect m -o x", "did you mean hubquant imatrix collect?"),
        ("imatrix quickstart", "the commands are collect, merge"),
        ("org/model", "hubquant run org/model"),
        ("model.gguf", "hubquant run model.gguf"),
        ("--dry-run run m", "--dry-run stands before the command"),
        ("--nothing", "see hubquant --help"),
        ("run m -types Q8_0", "did you mean --types?"),
        ("run m -types=Q8_0", "did you mean --types?"),
        ("run m -z", "no option -z"),
        ("run m --types", "--types needs a value"),
        ("run m -t", "-t needs a value"),
        ("run m --types --push me/x", "--types needs a value: --push follows it"),
        ("run m --dry-run=yes", "--dry-run takes no value"),
        ("run m --push a/b --push c/d", "--push is given 2 times"),
        ("convert m -o a --out b", "--outfile is given 2 times"),
        ("run m --types Q8_0, Q4_K_M", "such as Q8_0,Q4_K_M"),
        ("quantize m -t q8_0 q4_k_m,Q6_K -o x", "such as Q8_0,q4_k_m,Q6_K"),
        ("run m extra", "extra is left over"),
        ("quantize m.gguf Q8_0 -o x", "name it with an option: -t Q8_0"),
        ("quantize m.gguf out.gguf Q8_0", "name them with options: -t Q8_0 -o out.gguf"),
        ("convert m out.gguf f16", "name them with options: -t f16 -o out.gguf"),
        ("gguf set f.gguf a.key -5 --in-place", "comes last, after --"),
        ("run m --private", "--private is about a repository, and nothing is published"),
        ("plan m --set publish.to=null --private", "add --push"),
        ("run m --prune", "--prune is about a repository"),
        ("evaluate ppl m -f a -f b --ppl-stride 16", "a stride goes over one text"),
        ("evaluate ppl m --ppl-stride 1024", "longer than a chunk"),
        ("run m —types Q8_0", "two plain dashes: --types"),
        ("quantize m -t Q8_0 -o x --mode bets", "did you mean best?"),
        ("quantize m -t Q8_0 -o x --mode zzz", "'zzz' is not one of exact, best"),
        ("imatrix collect m -o x --offload streem", "did you mean stream?"),
        ("imatrix collect m -o x --chunks abc", "--chunks: 'abc' is not a whole number"),
        ("imatrix collect m -o x --chunks 1.5", "'1.5' is not a whole number"),
        ("imatrix collect m -o x --chunks 0", "'0' is less than 1"),
        ("imatrix collect m -o x --chunks -5", "'-5' is less than 1"),
        ("imatrix diff a b --tolerance many", "'many' is not a number"),
        ("imatrix diff a b --tolerance nan", "'nan' is not a number"),
        ("imatrix merge a b -o c -w heavy", "--weight: 'heavy' is not a number"),
        ("evaluate ppl m --chunk-size 3", "'3' is less than 16"),
    ],
)
def test_what_is_wrong_is_named(line: str, expected: str) -> None:
    outcome = hubquant(*line.split())
    assert is_usage_error(outcome), outcome.err
    assert expected in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", ""],
        ["run", "m", "--out", ""],
        ["run", "m", "--types", ""],
        ["run", "m", "--set", ""],
        ["convert", "m", "-o", ""],
        ["quantize", "m", "-t", "Q8_0", "-o", "x", "--imatrix", ""],
        ["inspect", ""],
        ["publish", "", "--to", "me/x"],
    ],
)
def test_nothing_is_no_value(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = hubquant(*arguments)
    assert is_usage_error(outcome), outcome.err
    assert " is empty" in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_path_with_spaces_wants_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model").mkdir()
    outcome = hubquant("run", "my", "model")
    assert is_usage_error(outcome), outcome.err
    assert "'my model'" in outcome.err


@pytest.mark.parametrize(
    "line", ["run m --typos x --json", "run --json", "rnu --json", "run m --types --json", "--json run m"]
)
def test_with_json_a_mistake_is_a_json_line(line: str) -> None:
    outcome = hubquant(*line.split())
    assert (outcome.code, outcome.out) == (2, "")
    [event] = [json.loads(line) for line in outcome.err.splitlines()]
    assert event["event"] == "error"
    assert event["hint"]


def test_a_value_that_reads_like_the_flag_is_none(tmp_path: Path) -> None:
    outcome = hubquant("run", f"{tmp_path}/none.yaml", "--set=--json=1", "--", "--json")
    assert outcome.code == 2
    assert outcome.err.startswith("Error: "), outcome.err


def test_what_is_typed_is_repeated_in_part_only() -> None:
    outcome = hubquant("run", "x/" * 50_000)
    assert outcome.code == 2
    assert outcome.is_one_message()
    assert len(outcome.err) < 1000
    hostile = hubquant("run", "a\x1b[31m\n\u202eb.yaml")
    assert hostile.is_one_message(), hostile.err
    assert "a\\x1b[31m \\u202eb.yaml" in hostile.err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run ./none", "no recipe and no model"),
        ("run none.yaml", "there is no recipe none.yaml"),
        ("run none.gguf", "none.gguf cannot be read: No such file"),
        ("run bad.yaml", "bad.yaml, line 1"),
        ("run file", "file is no model"),
        ("convert none.gguf -o x.gguf", "none.gguf cannot be read: No such file"),
        ("convert ./none -o x.gguf", "there is no folder none"),
        ("convert 'a b' -o x.gguf", "a b is no model"),
        ("convert ~nobody-at-all/x -o y.gguf", "there is no folder"),
        ("quantize file -t Q8_0 -o out", "file is no model"),
        ("quantize model.gguf -t Q8_0 -o out", "model.gguf cannot be read"),
        ("inspect folder", "folder cannot be read: it is a folder"),
        ("inspect empty", "it is empty"),
        ("imatrix show none", "there is no imatrix none"),
        ("imatrix show file", "file is no importance matrix"),
        ("evaluate run none.gguf -b file", "none.gguf cannot be read: No such file"),
        ("evaluate compare file file", "file cannot be read"),
        ("publish none --to me/x", "there is no folder none"),
        ("publish me/x --to folder", "hubquant publish folder --to me/x"),
        ("run quickstart --set quantize", "write --set quantize.mode=exact"),
        ("run quickstart --set =1", "is not an override"),
        ("run default", "default: model is missing\n  next: add --set model=org/name"),
        ("imatrix show folder", "folder is a folder"),
        ("quantize m -t Q8_0 -o file", "file is a file"),
        ("run quickstart --set quantise.mode=exact", "--set quantise.mode: unknown key quantise"),
        ("run quickstart --set chunks=5", "did you mean calibration.chunks or evaluate.chunks?"),
        ("run quickstart --set quantize.types=", "--set quantize.types must be a list, not nothing"),
        ("run quickstart --types ,", "--types names no type"),
        ("run quickstart --types Q4_KM", "--types: unknown file type 'Q4_KM'\n  next: did you mean Q4_K_M?"),
        ("run quickstart --types Q8_0,zzz", "--types: unknown file type 'zzz'\n  next: valid names: F32"),
        ("quantize m -t Q4_KM -o x", "--type: unknown file type 'Q4_KM'"),
        ("convert m -t Q4_K_M -o x.gguf", "hubquant quantize m -t Q4_K_M -o DIR"),
        ("run quickstart --set quantize.mode=exat", "did you mean exact?"),
    ],
)
def test_first_mistakes(line: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in {"file": "x", "empty": "", "model.gguf": "no", "bad.yaml": "model: ["}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    outcome = hubquant(*shlex.split(line))
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert expected in outcome.err
    assert "  next: " in outcome.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_mistyped_type_imports_no_torch() -> None:
    code = "import sys; from hubquant.cli.app import run_app; run_app(sys.argv[1:]); print(*sys.modules)"
    for line in ("run m --types Q4_KM", "quantize m -t Q4_KM -o x", "run quickstart --set quantize.mdoe=exact"):
        done = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True, text=True, check=True)
        assert done.stderr.startswith("Error: ")
        assert not {"torch", "transformers", "numpy", "numba"} & set(done.stdout.split())


def test_the_plan_fits_a_terminal(tiny_llama: Path) -> None:
    less = ["--set", "imatrix.skip=true", "--set", "evaluate.skip=true", "--out", "out"]
    outcome = hubquant("plan", str(tiny_llama), "--types", "q8_0,Q4_K_M", *less)
    assert outcome.code == 0, outcome.err
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "comparing the tokenizer" in outcome.err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("imatrix collect -f short.txt -o x.gguf", "or a smaller --chunk-size"),
        ("evaluate ppl -f short.txt", "or a smaller --chunk-size"),
        ("imatrix collect -f bad.jsonl -o x.gguf", "line 1 of bad.jsonl is not JSON: Expecting value\n"),
        ("imatrix collect -f list.jsonl -o x.gguf", "line 1 of list.jsonl is not a JSON object: it is [1]\n"),
        ("imatrix collect -f number.jsonl -o x.gguf", "'text' is a number\n"),
    ],
)
def test_texts_that_are_no_use(
    line: str, expected: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {"short.txt": "few", "bad.jsonl": "few", "list.jsonl": "[1]", "number.jsonl": '{"text": 1}'}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    outcome = hubquant(*line.split(), str(tiny_llama))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.is_one_message(), outcome.err
    assert expected in outcome.err
    assert "  next: " in outcome.err
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_token_in_the_wrong_place_is_not_repeated(words: tuple[str, ...]) -> None:
    token = f"hf_{'aB3' * 12}"
    outcome = hubquant("inspect", token, *words)
    assert outcome.code != 0
    assert token not in outcome.out + outcome.err
    assert "hf_model cannot be read" in hubquant("inspect", "hf_model").err

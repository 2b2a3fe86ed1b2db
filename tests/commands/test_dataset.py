"""``hubquant dataset build``."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from hubquant.calibration.bundled import bundled_path
from hubquant.cli.dataset import _one_by_one
from tests.support.cli import Outcome, hubquant
from tests.support.disks import mounted
from tests.support.localhub import LocalHub
from tests.support.plugins import write_plugin
from tests.support.processes import command, exit_code


def build(*words: str | Path) -> Outcome:
    return hubquant("dataset", "build", *map(str, words))


def built(*words: str | Path) -> dict[str, Any]:
    outcome = build(*words, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def plugin(
    folder: Path, name: str = "DiarySource", langs: tuple[str, ...] = ("en", "de"), n: int = 20
) -> list[str | Path]:
    path = write_plugin(folder)
    return ["--datasource-plugin", path, "--plugin-class", name, "--langs", *langs, "--samples", str(n)]


def left(folder: Path) -> list[str]:
    """Hidden files and folders."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_the_line_of_the_guide(tmp_path: Path) -> None:
    path = write_plugin(tmp_path)
    line = f"--datasource_plugin {path} --plugin_class DiarySource --langs en es de --num_samples 10 --output"
    outcome = build(*line.split(), tmp_path / "d.txt")
    assert outcome.code == 0, outcome.err
    lines = (tmp_path / "d.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in lines[:4]] == ["en 0", "es 0", "de 0", "en 1"]
    assert len(lines) == 30
    assert "characters: --tokenizer MODEL counts tokens" in outcome.err
    assert left(tmp_path) == []


def test_several_languages_are_read_after_one_flag() -> None:
    def read(line: str) -> str:
        return " ".join(_one_by_one(line.split()))

    assert read("--langs en es zh-Hant -o a") == "--langs en --langs es --langs zh-Hant -o a"
    assert read("--langs en recipe.yaml de") == "--langs en recipe.yaml de"
    assert read("--langs en, de --json") == "--langs en, --langs de --json"
    assert read("--langs de quickstart") == "--langs de quickstart"
    assert read("-o en de") == "-o en de"


def test_rows_have_the_language_and_the_source(tmp_path: Path) -> None:
    report = built(*plugin(tmp_path), "-o", tmp_path / "c.jsonl", "--tokenizer", "demo")
    found = rows(tmp_path / "c.jsonl")
    assert {(row["lang"], row["source"]) for row in found} == {(lang, "diary.py:DiarySource") for lang in ("en", "de")}
    assert report["unit"] == "tokens"
    assert report["languages"] == {each["lang"]: each["used"]["tokens"] for each in report["sources"]}
    assert report["files"][0]["tokens"] == sum(report["languages"].values())
    assert Counter(row["lang"] for row in found) == {
        each["lang"]: each["used"]["documents"] for each in report["sources"]
    }


def test_languages_have_as_many_tokens_unless_all_is_wanted(tmp_path: Path) -> None:
    source = """
        class Source:
            schema = {"content": "text"}
            def load_data(self, lang, num_samples, skip_samples):
                n = {"en": 30, "eu": 10}[lang]
                return [{"text": f"{lang} {i} " + " ".join(f"{lang}{i * 77 + k}" for k in range(30))} for i in range(n)]
    """
    path = write_plugin(tmp_path, source)
    line = ["--datasource-plugin", path, "--plugin-class", "Source", "--langs", "en", "eu", "--tokenizer", "demo"]
    report = built(*line, "-o", tmp_path / "a.jsonl")
    sizes = report["languages"]
    longest = max(each["tokens"] / each["documents"] for each in report["sources"]) * 1.2
    assert abs(sizes["en"] - sizes["eu"]) < longest
    assert report["sources"][1]["used"]["documents"] == 10
    everything = built(*line, "-o", tmp_path / "b.jsonl", "--no-balance")
    assert [each["used"]["documents"] for each in everything["sources"]] == [30, 10]
    few = built(*line, "-o", tmp_path / "c.jsonl", "--max-tokens", "1000")
    assert 1000 - longest < few["files"][0]["tokens"] <= 1000


def test_near_duplicates_are_removed_across_sources(tmp_path: Path) -> None:
    text = bundled_path("test").read_text("utf-8")
    paragraphs = [f"{text[i * 1000 : i * 1000 + 900]}\n" for i in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": each}) for each in paragraphs))
    changed = [each.upper().replace(" ", "  ", 3) + "!" for each in paragraphs[:20]]
    (tmp_path / "b.jsonl").write_text(
        "\n".join(json.dumps({"text": each}) for each in [*changed, "", "Something else."])
    )
    files = ["-f", tmp_path / "a.jsonl", "-f", tmp_path / "b.jsonl", "-o", tmp_path / "c.jsonl"]
    report = built(*files)
    assert [(each["documents"], each["duplicates"], each["blank"]) for each in report["sources"]] == [
        (30, 0, 0),
        (1, 20, 1),
    ]
    assert report["overlap"]["shared"] > 0
    assert report["overlap"]["with"] == "hubquant:test"
    kept = built(*files, "--keep-duplicates")
    assert [(each["documents"], each["duplicates"], each["blank"]) for each in kept["sources"]] == [
        (30, 0, 0),
        (21, 0, 1),
    ]


def test_the_first_part_is_for_testing(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "c.jsonl"
    sizes = built(*plugin(tmp_path), "-o", whole, "--tokenizer", "demo")["files"][0]["tokens"]
    outcome = build(*plugin(tmp_path), "-o", out, "--tokenizer", "demo", "--split-test", "20%")
    assert outcome.code == 0
    assert f"{out}  " in outcome.out
    assert f"{tmp_path / 'c-test.jsonl'}  " in outcome.out
    test, pool = rows(tmp_path / "c-test.jsonl"), rows(out)
    assert [*test, *pool] == rows(whole)
    for wanted, given in ((0.2 * sizes, "20%"), (1000, "1000"), (1500, "1.5k")):
        report = built(*plugin(tmp_path), "-o", out, "--tokenizer", "demo", "--split-test", given)
        found = {file["part"]: file["tokens"] for file in report["files"]}
        assert wanted <= found["test"] < wanted + 200
        assert sum(found.values()) == sizes
        assert report["overlap"]["with"] == "c-test.jsonl"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("0%", "is no part"),
        ("100%", "is no part"),
        ("many", "is no part"),
        ("99k", "nothing is left for"),
        ("0", "no part"),
    ],
)
def test_parts_that_are_none(tmp_path: Path, given: str, why: str) -> None:
    outcome = build(*plugin(tmp_path), "-o", tmp_path / "c.txt", "--split-test", given)
    assert outcome.code == 2
    assert outcome.is_one_message()
    assert why in outcome.err
    assert not (tmp_path / "c.txt").exists()
    assert not (tmp_path / "c-test.txt").exists()


def test_counting_writes_nothing(tmp_path: Path) -> None:
    line = plugin(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    report = built(*line, "--tokenizer", "demo", "--count-only", "-o", tmp_path / "c.txt")
    assert sorted(tmp_path.rglob("*")) == before
    assert report["files"] == []
    written = built(*line, "--tokenizer", "demo", "-o", tmp_path / "c.txt", "--no-balance")
    assert [each["tokens"] for each in report["sources"]] == [each["used"]["tokens"] for each in written["sources"]]


def test_the_texts_of_a_recipe_and_its_tokenizer(tmp_path: Path, hub: LocalHub, tiny_llama: Path) -> None:
    path = write_plugin(tmp_path)
    hub.add(
        "org/text",
        {"train.jsonl": "\n".join(json.dumps({"body": f"row {i} {i * 7}"}) for i in range(50)).encode()},
        kind="dataset",
    )
    recipe = {
        "model": str(tiny_llama),
        "calibration": {
            "seed": 5,
            "sources": [
                {"dataset": "org/text", "field": "body", "samples": 12},
                {"plugin": f"{path}:ShortSource", "langs": ["en", "de"], "samples": 5, "skip": 7},
                {"bundled": "demo-calibration"},
            ],
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "more.txt").write_text("One more.\nAnd another.\n")
    report = built(tmp_path / "recipe.yaml", "-f", tmp_path / "more.txt", "-o", tmp_path / "c.jsonl")
    assert report["tokenizer"] == "tiny-llama"
    assert report["seed"] == 5
    assert [(each["source"], each["lang"], each["documents"]) for each in report["sources"][:3]] == [
        ("org/text", None, 12),
        ("diary.py:ShortSource", "en", 5),
        ("diary.py:ShortSource", "de", 5),
    ]
    assert report["sources"][4]["documents"] == 2
    first = (tmp_path / "c.jsonl").read_bytes()
    assert b"en 7: en217" in first
    built(tmp_path / "recipe.yaml", "-f", tmp_path / "more.txt", "-o", tmp_path / "c.jsonl")
    assert (tmp_path / "c.jsonl").read_bytes() == first
    built(tmp_path / "recipe.yaml", "-f", tmp_path / "more.txt", "-o", tmp_path / "c.jsonl", "--seed", "6")
    assert (tmp_path / "c.jsonl").read_bytes() != first


def test_datasets_and_files_by_language(tmp_path: Path, hub: LocalHub) -> None:
    card = "---\nconfigs:\n" + "".join(
        f"- {{config_name: x.{each}, data_files: {each}.jsonl}}\n" for each in ("ca", "eu")
    )
    content = {f"{each}.jsonl": json.dumps({"text": f"{each} text"}).encode() for each in ("ca", "eu")}
    hub.add("org/many", {"README.md": f"{card}---\n".encode(), **content}, kind="dataset")
    for each in ("ca", "eu"):
        (tmp_path / f"{each}.txt").write_text(f"{each} file\n")
    line = ["-f", "org/many", "-f", f"{tmp_path}/{{lang}}.txt", "--max-tokens", "99", "--config", "x.{lang}"]
    line += ["--langs", "ca", "eu"]
    built(*line, "-o", tmp_path / "c.txt")
    assert (tmp_path / "c.txt").read_text().splitlines() == ["ca text", "eu text", "ca file", "eu file"]
    outcome = build(*line[:-1], "xx", "-o", tmp_path / "c.txt")
    assert outcome.code == 2
    assert outcome.is_one_message()
    assert "xx" in outcome.err


def test_no_more_of_a_dataset_is_read_than_is_needed(tmp_path: Path, hub: LocalHub) -> None:
    rows_of_all = (json.dumps({"text": f"row {i} of {i * 77}"}) for i in range(50))
    hub.add("org/large", {"train.jsonl": "\n".join(rows_of_all).encode()}, kind="dataset")
    outcome = build("-f", "org/large", "-o", tmp_path / "c.txt")
    assert outcome.code == 2
    assert "how much of org/large?" in outcome.err
    report = built("-f", "org/large", "-f", write_rows(tmp_path, 40), "-o", tmp_path / "c.txt", "--max-tokens", "200")
    assert all(each["documents"] < 20 for each in report["sources"])
    assert 180 < report["files"][0]["characters"] <= 200


def write_rows(folder: Path, n: int) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"{i * 31} another row {i * i}"}) for i in range(n)))
    return path


def test_records_that_were_skipped_are_those_before(tmp_path: Path) -> None:
    line = plugin(tmp_path, langs=("en",), n=10)
    built(*line, "-o", tmp_path / "a.txt")
    built(*line, "-o", tmp_path / "b.txt", "--skip-samples", "10")
    line[-1] = "20"
    built(*line, "-o", tmp_path / "c.txt")
    assert (tmp_path / "a.txt").read_bytes() + (tmp_path / "b.txt").read_bytes() == (tmp_path / "c.txt").read_bytes()


def test_conversations_stay_messages_in_rows(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Ä?"}, {"role": "assistant", "content": "B."}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": messages}))
    line = ["-f", tmp_path / "chat.jsonl", "--field", "messages"]
    built(*line, "-o", tmp_path / "c.jsonl")
    assert rows(tmp_path / "c.jsonl") == [{"text": messages, "source": "chat.jsonl"}]
    built(*line, "-o", tmp_path / "c.txt")
    assert (tmp_path / "c.txt").read_text("utf-8") == "Ä?\nB.\n"


KILLS = """
    import os
    from pathlib import Path

    class Source:
        schema = {{"content": "text"}}

        def load_data(self, lang, num_samples=200, skip_samples=0):
            for i in range(num_samples):
                mark = Path({mark!r}) / f"{{lang}}{{i}}"
                if i in (3, 11) and not mark.exists():
                    mark.touch()
                    os.kill(int(os.environ["BUILDER"]), 9)
                    os._exit(1)
                text = f"{{lang}} {{i}} " + " ".join(f"{{lang}}{{i * 77 + k}}" for k in range(30))
                yield {{"text": text if i % 4 else "the same every time, in each language and at every place"}}
"""


def _build(line: list[str]) -> None:
    os.environ["BUILDER"] = str(os.getpid())
    command(*line)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_killed_one_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    path = write_plugin(tmp_path, KILLS.format(mark=str(tmp_path)))
    line = ["dataset", "build", "--datasource-plugin", str(path), "--plugin-class", "Source", "--langs", "en", "de"]
    out = tmp_path / "c.jsonl"
    line += ["--samples", "20", "-o", str(out), "--split-test", "20%"]

    for _ in range(4):
        assert exit_code(_build, line) == -signal.SIGKILL
        assert not out.exists()
        assert left(tmp_path) == [".c.jsonl.building"]
    assert exit_code(_build, line) == 0
    assert left(tmp_path) == []
    found = out.read_bytes(), (tmp_path / "c-test.jsonl").read_bytes()
    assert found[0].count(b"\n") + found[1].count(b"\n") == 31
    out.unlink()
    assert exit_code(_build, line) == 0
    assert (out.read_bytes(), (tmp_path / "c-test.jsonl").read_bytes()) == found


def test_a_full_disk_is_one_message_and_the_same_line_goes_on(tmp_path: Path) -> None:
    line = plugin(tmp_path, n=40)
    built(*line, "-o", tmp_path / "whole.jsonl")
    with mounted(tmp_path / "disk", "size=64k") as disk:
        (disk / "ballast").write_bytes(bytes(44 << 10))
        outcome = build(*line, "-o", disk / "c.jsonl")
        assert outcome.code == 1
        assert outcome.is_one_message(), outcome.err
        assert "disk is full" in outcome.err
        assert not (disk / "c.jsonl").exists()
        (disk / "ballast").unlink()
        again = build(*line, "-o", disk / "c.jsonl")
        assert again.code == 0, again.err
        assert (disk / "c.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("line", "what", "code"),
    [
        ("", "nothing to build", 2),
        ("-f {here}/missing.txt", "cannot be read", 2),
        ("-f {here}/not/a/dataset.txt", "cannot be read", 2),
        ("-f {here}/empty.txt", "has no text", 2),
        ("-f {here}/a.txt --samples 5", "samples needs rows", 2),
        ("-f {here}/a.txt -f {here}/a.txt", "of its 1 documents is nearly the same", 2),
        ("--datasource-plugin {here}/diary.py", "--langs is missing", 2),
        ("--datasource-plugin {here}/diary.py --langs en", "has no class DataSourcePlugin", 2),
        ("--datasource-plugin {here}/gone.py --langs en", "gone.py cannot be read", 2),
        ("--datasource-plugin {here}/diary.py --plugin-class a-b --langs en", "a file and a class", 2),
        ("--datasource-plugin {here}/diary.py --plugin-class DiarySource --langs en en", "given twice", 2),
        ("-f {here}/a.txt --set calibration.seed=3", "--set changes a recipe", 2),
        ("-f {here}/a.txt --max-tokens 2", "nothing of the text fits", 2),
        ("-f {here}/a.txt --tokenizer {here}/nothing", "nothing", 2),
        ("-f {here}/a.txt --samples 0", "samples: '0' is less than 1", 2),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing(tmp_path: Path, line: str, what: str, code: int) -> None:
    write_plugin(tmp_path)
    (tmp_path / "a.txt").write_text("a text of few words")
    (tmp_path / "empty.txt").write_text(" \n")
    outcome = build(*line.format(here=tmp_path).split(), "-o", tmp_path / "c.txt")
    assert outcome.code == code, outcome.out
    assert outcome.is_one_message(), outcome.err
    assert what in outcome.err
    assert not (tmp_path / "c.txt").exists()


@pytest.mark.parametrize(
    ("out", "what"),
    [
        ("c.gguf", "is no name for a text"),
        ("c.parquet", "is no name for a text"),
        ("a.txt", "is one of the texts"),
        ("picture.txt", "is not a text"),
        ("folder.txt", "is a folder"),
    ],
)
def test_what_is_not_written_over(tmp_path: Path, out: str, what: str) -> None:
    (tmp_path / "a.txt").write_text("a text")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (tmp_path / "folder.txt").mkdir()
    outcome = build("-f", tmp_path / "a.txt", "-o", tmp_path / out)
    assert outcome.code == 2
    assert what in outcome.err
    assert (tmp_path / "a.txt").read_text() == "a text"


def test_the_text_to_evaluate_on_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "held-out.txt").write_text("a text")
    recipe = {"model": {"bundled": "demo"}, "evaluate": {"sources": [{"file": str(tmp_path / "held-out.txt")}]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    outcome = build(tmp_path / "recipe.yaml", "-o", tmp_path / "held-out.txt")
    assert outcome.code == 2
    assert "is one of the texts" in outcome.err
    outcome = build(tmp_path / "recipe.yaml", "-o", tmp_path / "held-out.txt", "--count-only")
    assert outcome.code == 0, outcome.err


def test_an_evaluation_text_that_cannot_be_read_is_noted(tmp_path: Path) -> None:
    recipe = {"model": {"bundled": "demo"}, "evaluate": {"sources": [{"file": str(tmp_path / "gone.txt")}]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    settings = ["--set", "calibration.sources=[{bundled: test}]", "--max-tokens", "900"]
    outcome = build(tmp_path / "recipe.yaml", "-o", tmp_path / "c.txt", *settings)
    assert outcome.code == 0, outcome.err
    assert "is not known: " in outcome.err


def test_two_do_not_build_one_file(tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / ".c.txt.building").mkdir()
    with FileLock(tmp_path / ".c.txt.building" / "lock"):
        outcome = build(*plugin(tmp_path), "-o", tmp_path / "c.txt")
    assert outcome.code == 2
    assert "by another process" in outcome.err


def test_a_failing_plugin_is_one_message_and_nothing_on_stdout(tmp_path: Path) -> None:
    text = (
        "class Source:\n    def load_data(self, lang, **_):\n        print('looking')\n        raise OSError('gone')\n"
    )
    path = write_plugin(tmp_path, text)
    line = ["--datasource-plugin", path, "--plugin-class", "Source", "--langs", "en", "-o", tmp_path / "c.txt"]
    outcome = build(*line)
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert f"{path}, line 4: OSError: gone" in outcome.err
    assert left(tmp_path) == []
    told = build(*line, "--json", "--verbose")
    assert told.out == ""
    assert [json.loads(each)["text"] for each in told.err.splitlines() if "looking" in each] == [
        f"{path}:Source: looking"
    ]


@pytest.mark.parametrize("part", ["calibration", "evaluate"])
def test_a_recipe_of_the_hub_runs_no_plugin(hub: LocalHub, tmp_path: Path, part: str) -> None:
    path = write_plugin(tmp_path, "open(__file__ + '.ran', 'w')")
    source = f"{{plugin: '{path}:Source', langs: [en]}}"
    hub.add("evil/recipe", {"recipe.yaml": f"model: {{id: org/tiny}}\n{part}: {{sources: [{source}]}}".encode()})
    outcome = build("hub:evil/recipe", "-o", tmp_path / "c.txt")
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert f"plugin {path}:Source" in outcome.err
    assert [each.name for each in tmp_path.iterdir() if each.name != "hub-storage"] == ["diary.py"]

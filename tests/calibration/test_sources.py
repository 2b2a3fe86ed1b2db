from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import datasets
import pytest

from hubquant.calibration import documents, fingerprint, overlap, read_text
from hubquant.calibration.bundled import bundled_path
from hubquant.errors import CalibrationError, HubAccessError, HubUnavailableError
from hubquant.recipe.schema import BundledText, TextSource
from tests.support.localhub import BOB, LocalHub
from tests.support.plugins import write_plugin

ROWS = [{"text": f"row {i}", "n": i, "messages": [{"role": "user", "content": f"q{i}"}]} for i in range(50)]
TEXTS = [str(row["text"]) for row in ROWS]


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in ROWS))
    return path


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list(ROWS).to_parquet(path)
    return path


def read(seed: int = 0, **settings: Any) -> list[Any]:
    return list(documents(TextSource(**settings), seed))


def test_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes("# Ä\r\n\n<|x|>\n".encode())
    assert read(file=str(tmp_path / "a.md")) == ["# Ä\r\n\n<|x|>\n"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_of_files(request: pytest.FixtureRequest, kind: str) -> None:
    path = str(request.getfixturevalue(kind))
    assert read(file=path) == TEXTS
    assert read(file=path, field="messages")[3] == [{"role": "user", "content": "q3"}]
    assert read(file=path, chat_template=True)[3] == [{"role": "user", "content": "row 3"}]
    sample = read(file=path, samples=10, seed=5)
    assert len(set(sample)) == 10
    assert set(sample) < set(TEXTS)
    assert sample != TEXTS[:10]
    assert sample == read(file=path, samples=10, seed=5) != read(file=path, samples=10, seed=6)
    assert sorted(read(file=path, samples=999)) == sorted(TEXTS)
    with pytest.raises(CalibrationError, match=r"no field 'body': row 1 has: text, n, messages"):
        read(file=path, field="body")
    with pytest.raises(CalibrationError, match=r"row 1 of .* holds no text: 'n' is a number"):
        read(file=path, field="n")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_not_utf8(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"abc" * 1000 + "é".encode("latin1") + b"d")
    with pytest.raises(CalibrationError, match=r"not UTF-8: byte 3,000 is 0xe9"):
        read(file=str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    source = TextSource(file=str(tmp_path / name))
    with pytest.raises(CalibrationError, match="cannot be read"):
        list(documents(source, 0))
    with pytest.raises(CalibrationError, match="cannot be read"):
        fingerprint(source, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_pipe_is_no_text(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CalibrationError, match="it is a pipe or a device"):
        read(file=str(tmp_path / name))


def test_broken_tables(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": \n')
    with pytest.raises(CalibrationError, match=r"line 2 of .* is not JSON"):
        read(file=str(tmp_path / "a.jsonl"))
    (tmp_path / "b.jsonl").write_text('["x"]\n')
    with pytest.raises(CalibrationError, match=r"line 1 of .* is not a JSON object"):
        read(file=str(tmp_path / "b.jsonl"))
    (tmp_path / "c.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(CalibrationError, match="cannot be read"):
        read(file=str(tmp_path / "c.parquet"))


@pytest.mark.parametrize("option", [{"samples": 3}, {"chat_template": True}])
def test_options_that_need_rows(tmp_path: Path, option: dict[str, Any]) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CalibrationError, match="needs rows"):
        read(file=str(tmp_path / "a.txt"), **option)


def test_bundled_texts_are_there_and_differ() -> None:
    texts = {name: read_text(TextSource(bundled=name), 0, 10**9) for name in get_args(BundledText)}
    assert {name: len(text) > 90_000 for name, text in texts.items()} == dict.fromkeys(get_args(BundledText), True)
    for name in ("calibration", "demo-calibration"):
        found = overlap([texts[name]], texts["test"])
        assert found.lines > 500
        assert found.share < 0.005
    assert bundled_path("test").read_text("utf-8") == texts["test"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    datasets.Dataset.from_list(ROWS).to_parquet(path / "train-00000-of-00001.parquet")
    (path / "test.parquet").write_bytes((path / "train-00000-of-00001.parquet").read_bytes())
    return path


def test_dataset_folder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert read(file=str(folder)) == TEXTS
    assert read(file=str(folder), split="test", field="messages")[1] == [{"role": "user", "content": "q1"}]
    sample = read(file=str(folder), samples=10, seed=3)
    assert len(set(sample)) == 10
    assert sample == read(file=str(folder), samples=10, seed=3) != read(file=str(folder), samples=10, seed=4)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "validation"}, r"Bad split: validation. Available splits: \['train', 'test'\]"),
        ({"config": "de"}, r"BuilderConfig 'de' not found. Available: \['default'\]"),
        ({"field": "body"}, "no field 'body': row 1 has: text, n, messages"),
    ],
)
def test_what_a_folder_does_not_have(folder: Path, settings: dict[str, str], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        read(file=str(folder), **settings)


def test_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="contain any data files"):
        read(file=str(tmp_path))


def test_saved_dataset(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "dict")
    assert read(file=str(tmp_path / "one")) == read(file=str(tmp_path / "dict")) == TEXTS
    with pytest.raises(CalibrationError, match=r"Bad split: x. Available splits: \['train'\]"):
        read(file=str(tmp_path / "dict"), split="x")


def test_scripts_in_a_folder_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    with pytest.raises(CalibrationError):
        read(file=str(tmp_path / "data"))
    assert not (tmp_path / "executed").exists()


def test_hub_dataset(hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add("org/rows", files, kind="dataset")
    hub.add("org/gated", files, kind="dataset", gated="auto")
    assert read(dataset="org/rows") == TEXTS
    assert len(read(dataset="org/rows", samples=10)) == 10
    with pytest.raises(CalibrationError, match=r"Available splits: \['train', 'test'\]"):
        read(dataset="org/rows", split="dev")
    with pytest.raises(CalibrationError, match="org/rows cannot be read: Revision 'absent' doesn't exist"):
        read(dataset="org/rows", revision="absent")
    with pytest.raises(CalibrationError, match=r"org/absent cannot be read: .* doesn't exist on the Hub"):
        read(dataset="org/absent")
    monkeypatch.setenv("HF_TOKEN", BOB)
    with pytest.raises(HubAccessError, match=r"org/gated is gated"):
        read(dataset="org/gated")


def test_a_hub_dataset_is_never_one_of_this_machine(
    hub: LocalHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/rows", {path.name: path.read_bytes() for path in folder.iterdir()}, kind="dataset")
    (tmp_path / "org").mkdir()
    secret = datasets.Dataset.from_list([{"text": "secret"}])
    for place in ("org/rows", "org/absent", "train"):
        secret.to_json(tmp_path / place / "train.jsonl")
    (tmp_path / "train.txt").write_text("secret")
    monkeypatch.chdir(tmp_path)
    assert read(dataset="org/rows") == TEXTS
    for name in ("org/absent", "text", "json"):
        with pytest.raises(CalibrationError):
            read(dataset=name)
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {tmp_path / 'train.txt'}\n---\n"
    hub.add("org/pointing", {"README.md": card.encode(), "train.txt": b"x"}, kind="dataset")
    with pytest.raises(CalibrationError, match="don't belong to org/pointing"):
        read(dataset="org/pointing")
    for name in (
        str(tmp_path),
        "./org",
        "~/texts",
        "../org/rows",
        "hf://datasets/org/rows",
        "org/rows/",
        "a/b/c",
        "org/rows\n",
    ):
        with pytest.raises(ValueError, match="Hub id"):
            TextSource(dataset=name)


def test_hub_dataset_offline() -> None:
    code = (
        "from hubquant.calibration import documents\n"
        "from hubquant.recipe.schema import TextSource\n"
        "from hubquant.errors import HubUnavailableError\n"
        "try: list(documents(TextSource(dataset='org/rows'), 0))\n"
        "except HubUnavailableError as error: print(error.what, error.hint, sep='|')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert HubUnavailableError.exit_code == 1
    assert done.stdout.startswith("dataset org/rows cannot be read|check the network")
    assert done.stderr == ""


def test_fingerprint(jsonl: Path, folder: Path, tmp_path: Path) -> None:
    source = TextSource(file=str(jsonl))
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes(jsonl.read_bytes())
    assert fingerprint(source, 0) == fingerprint(source, 1) == fingerprint(TextSource(file=str(moved)), 0)
    sampled = source.model_copy(update={"samples": 5})
    different = {
        fingerprint(s, seed)
        for s, seed in [
            (source, 0),
            (sampled, 0),
            (sampled, 1),
            (source.model_copy(update={"field": "messages"}), 0),
            (source.model_copy(update={"weight": 2.0}), 0),
            (TextSource(bundled="test"), 0),
            (TextSource(bundled="calibration"), 0),
            (TextSource(file=str(folder)), 0),
            (TextSource(dataset="org/rows", revision="a" * 40), 0),
            (TextSource(dataset="org/rows", revision="b" * 40), 0),
        ]
    }
    assert len(different) == 10
    before = fingerprint(TextSource(file=str(folder)), 0)
    (folder / "more.parquet").write_bytes(b"x")
    assert fingerprint(TextSource(file=str(folder)), 0) != before
    moved.write_text(moved.read_text() + "\n")
    assert fingerprint(TextSource(file=str(moved)), 0) != fingerprint(source, 0)


def test_read_text(jsonl: Path) -> None:
    assert read_text(TextSource(file=str(jsonl)), 0, 20) == "row 0\nrow 1\nrow 2\nro"
    assert read_text(TextSource(file=str(jsonl), field="messages"), 0, 5) == "q0\nq1"


def test_overlap() -> None:
    shared = "This line stands in both texts, and it is long enough to be no accident."
    alone = "This line stands in the evaluation text alone; it is long as well, you see."
    found = overlap(["x\n  " + shared.replace(" ", "  ") + "\nshort\n"], f"{shared}\n{alone}\nshort\n{shared}\n{alone}")
    assert (found.lines, found.shared, found.share, found.example) == (4, 2, 0.5, shared)
    assert overlap([shared], "short").share == 0


def test_parquet_with_text_that_is_not_utf_8(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"text": ["mark" * 9]}), path, compression="none", write_statistics=False)
    path.write_bytes(path.read_bytes().replace(b"mark", b"ma\xff\xfe", 1))
    with pytest.raises(CalibrationError, match="cannot be read"):
        list(documents(TextSource(file=str(path)), 0))


@pytest.mark.parametrize("chat_template", [False, True])
@pytest.mark.parametrize(
    "value", ["a \ud800 b", [{"role": "user", "content": "\udfff"}], [{"role": "\ud800", "content": ""}]]
)
def test_half_a_character_is_named(tmp_path: Path, value: Any, chat_template: bool) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ("sound", value)))
    source = TextSource(file=str(tmp_path / "rows.jsonl"), chat_template=chat_template)
    with pytest.raises(CalibrationError, match=r"row 2 of .* half a character: \\u"):
        list(documents(source, 0))


def test_rows_that_are_skipped_come_before_those_that_are_read(jsonl: Path, parquet: Path) -> None:
    for path in (str(jsonl), str(parquet)):
        assert read(file=path, skip=48) == TEXTS[48:]
        assert read(file=path, skip=99) == []
        first, second = (read(file=path, samples=20, skip=skip, seed=3) for skip in (0, 20))
        assert [*first, *second] == read(file=path, samples=40, seed=3)


def test_rows_of_a_hub_dataset_are_skipped_too(hub: LocalHub) -> None:
    hub.add("org/rows", {"train.jsonl": "\n".join(map(json.dumps, ROWS)).encode()}, kind="dataset")
    assert read(dataset="org/rows", skip=45) == TEXTS[45:]
    first, second = (read(dataset="org/rows", samples=20, skip=skip, seed=3) for skip in (0, 20))
    assert [*first, *second] == read(dataset="org/rows", samples=40, seed=3)


def test_one_text_has_no_rows_to_skip() -> None:
    with pytest.raises(CalibrationError, match="skip needs rows"):
        read(bundled="test", skip=1)


def test_languages_take_turns_by_characters(tmp_path: Path) -> None:
    for lang, text in (("en", "long " * 10), ("de", "kurz ")):
        rows = [json.dumps({f"text_{lang}": f"{text}{i}"}) for i in range(20)]
        (tmp_path / f"{lang}.jsonl").write_text("\n".join(rows))
    found = read(file=str(tmp_path / "{lang}.jsonl"), field="text_{lang}", langs=["en", "de"])
    assert len(found) == 40
    assert [text[:4] for text in found[:11]] == ["long", *["kurz"] * 9, "long"]


def test_languages_of_a_hub_dataset_are_its_configurations(hub: LocalHub) -> None:
    card = "---\nconfigs:\n" + "".join(
        f"- {{config_name: {lang}, data_files: {lang}.jsonl}}\n" for lang in ("ca", "eu")
    )
    rows = {f"{lang}.jsonl": json.dumps({"text": lang * 5}).encode() for lang in ("ca", "eu")}
    hub.add("org/languages", {"README.md": f"{card}---\n".encode(), **rows}, kind="dataset")
    assert read(dataset="org/languages", config="{lang}", langs=["eu", "ca"]) == ["eu" * 5, "ca" * 5]
    with pytest.raises(CalibrationError, match="'xx'"):
        read(dataset="org/languages", config="{lang}", langs=["eu", "xx"])


def test_a_plugin_is_a_source(tmp_path: Path) -> None:
    path = write_plugin(tmp_path)
    settings: dict[str, Any] = {"plugin": f"{path}:DiarySource", "langs": ["en", "de"], "samples": 3, "skip": 2}
    found = read(**settings)
    assert [text.partition(":")[0] for text in found] == [f"{lang} {i}" for i in (2, 3, 4) for lang in ("en", "de")]
    assert read(**settings, chat_template=True)[0] == [{"role": "user", "content": found[0]}]
    assert len(read(plugin=f"{path}:DiarySource", langs=["en"])) == 200
    before = fingerprint(TextSource(**settings), 0)
    assert before != fingerprint(TextSource(**settings), 1)
    path.write_text(path.read_text() + "\n# changed\n")
    assert before != fingerprint(TextSource(**settings), 0)


def test_text_of_a_plugin_must_be_text(tmp_path: Path) -> None:
    text = "class Source:\n    schema = {'content': 't'}\n    def load_data(self, lang, num_samples, skip_samples):\n"
    path = write_plugin(tmp_path, text + "        return [{'t': 'a'}, {'t': '\\ud800'}]")
    with pytest.raises(CalibrationError, match=r"row 2 of diary.py:Source holds half a character"):
        read(plugin=f"{path}:Source", langs=["en"])

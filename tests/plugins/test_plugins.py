"""Plugins of users: what existing files need, and everything that can be wrong with one."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import psutil
import pytest

from hubquant.errors import CalibrationError
from hubquant.plugins import PluginRequest, plugin_texts
from tests.support.plugins import EXISTING, write_plugin


def texts(path: Path, name: str, lang: str = "en", samples: int = 5, skip: int = 0) -> list[str]:
    return list(plugin_texts(PluginRequest(str(path), name, lang, samples, skip)))


def test_an_existing_plugin_runs_unchanged(tmp_path: Path) -> None:
    path = write_plugin(tmp_path)
    five = texts(path, "DiarySource")
    assert [text.partition(":")[0] for text in five] == [f"en {i}" for i in range(5)]
    assert texts(path, "DiarySource", samples=2, skip=3) == five[3:]
    assert texts(path, "ShortSource") == [text[:20] for text in five]
    assert [each.name for each in tmp_path.iterdir()] == ["diary.py"]


@pytest.mark.parametrize("place", ["plugin_base", "imatrix_dataset.plugin_base", "hubquant.plugins"])
def test_the_base_class_is_found_by_each_of_its_names(tmp_path: Path, place: str) -> None:
    path = write_plugin(tmp_path, EXISTING.replace("from plugin_base", f"from {place}"))
    assert len(texts(path, "DiarySource")) == 5


def test_a_base_class_and_helpers_beside_the_plugin_are_its_own(tmp_path: Path) -> None:
    write_plugin(tmp_path, "class DataSourcePluginBase:\n    own = 'mine'", "plugin_base.py")
    write_plugin(tmp_path, "word = 'helped'", "my_helper.py")
    text = """
        import my_helper
        from plugin_base import DataSourcePluginBase

        class Source(DataSourcePluginBase):
            schema = {"content": "a.1"}

            def load_data(self, lang, num_samples, skip_samples):
                yield {"a": ["", my_helper.word + self.own]}
    """
    assert texts(write_plugin(tmp_path, text), "Source") == ["helpedmine"]


def test_what_a_plugin_prints_is_told_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = write_plugin(tmp_path)
    texts(path, "DiarySource")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert f"{path}:DiarySource: diary: 5 after 0" in caplog.messages
    assert f"{path}:DiarySource: looking for en" in caplog.messages


SOURCE = """
    class Source:
        schema = {{"content": "text"}}

        def load_data(self, lang, num_samples=200, skip_samples=0):
            {load}

        def get_content(self, record):
            {get}
"""


def source(load: str = "return [{'text': 'a'}]", get: str = "return record['text']") -> str:
    return SOURCE.format(load=load, get=get)


@pytest.mark.parametrize(
    ("text", "what", "why"),
    [
        (source("raise RuntimeError('no net\\nat all')"), "failed in load_data", "line 5: RuntimeError: no net"),
        (source("yield {'text': 'a'}; 1 / 0"), "load_data for 'en', after 1 records", "line 5: ZeroDivisionError"),
        (source(get="return record['body']"), "failed in get_content, at record 1 of 'en'", "line 8: KeyError: 'body'"),
        (source("import sys; sys.exit(3)"), "failed in load_data", "line 5: SystemExit: 3"),
        (source("return input()"), "failed in load_data", "line 5: EOFError"),
        (source("pass"), "returned nothing (None) for 'en'", "a list, or whatever gives one after the other"),
        (source("return 'a text'"), "returned a str for 'en'", "a list"),
        (source("return {'text': 'a'}"), "returned a dict for 'en'", "a list"),
        (source("return []"), "has no record for 'en'", ""),
        (source("return [{'text': 'a'}, {'text': 5}]"), "record 2 of", "its content is of the type int"),
        (source("return [{'text': None}] * 7"), "gives no text for 'en'", "none of its first 5 records"),
        (source("return ['a', 'b']", "return record.text"), "get_content", "line 8: AttributeError"),
        (source("import os; os._exit(7)"), "broke down for 'en'", "status 7"),
        ("class Source:\n    def load_data(self)\n", "cannot be loaded", "p.py, line 2: SyntaxError: expected ':'"),
        ("x = 1\nraise ValueError('too soon')", "cannot be loaded", "p.py, line 2: ValueError: too soon"),
        ("import not_there_at_all", "cannot be loaded", "p.py, line 1: ModuleNotFoundError"),
        ("class Other:\n    def load_data(self): ...", "has no class Source", ""),
        ("def Source(): ...", "Source in ", "it is of the type function"),
        ("class Source: ...", "is no data source", "it has no load_data"),
        ("class Source:\n    def load_data(self): ...", "failed in load_data", "TypeError"),
        ("class Source:\n    def __init__(self): 1 / 0\n    load_data = 1", "be made", "line 2: ZeroDivision"),
        (EXISTING.replace(".0.", ".7.").replace("Diary", ""), "gives no text", "s.7.text'; the first has: entry"),
        (
            "from plugin_base import DataSourcePluginBase\nclass Source(DataSourcePluginBase): ...",
            "cannot be made",
            "abstract",
        ),
    ],
)  # fmt: skip
def test_whatever_is_wrong_is_one_error(tmp_path: Path, text: str, what: str, why: str) -> None:
    path = write_plugin(tmp_path, text, "p.py")
    with pytest.raises(CalibrationError) as error:
        texts(path, "Source")
    assert what in error.value.what
    assert why in (error.value.why or "")
    assert str(path) in error.value.what


@pytest.mark.parametrize("name", ["missing.py", ""])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(CalibrationError, match="cannot be read"):
        texts(tmp_path / name, "Source")


def test_the_classes_that_are_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError) as error:
        texts(write_plugin(tmp_path), "Diary")
    assert error.value.hint == "it has DiarySource, ShortSource"


def test_records_without_text_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_plugin(tmp_path, source("return [{'text': t} for t in ('a', None, ' ', 'b')]"))
    assert texts(path, "Source") == ["a", "b"]
    assert f"{path}:Source: 2 records of 'en' have no text" in caplog.messages


def test_what_gives_records_for_ever_ends_at_samples(tmp_path: Path) -> None:
    endless = "import itertools; return ({'text': str(i)} for i in itertools.count(skip_samples))"
    path = write_plugin(tmp_path, source(endless))
    assert texts(path, "Source", samples=1000, skip=4) == [str(i) for i in range(4, 1004)]


def test_chance_is_seeded(tmp_path: Path) -> None:
    chance = "import random; return [{'text': str(random.random())} for _ in range(9)]"
    path = write_plugin(tmp_path, source(chance))
    assert texts(path, "Source") == texts(path, "Source")


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_its_process_ends_with_its_texts(tmp_path: Path) -> None:
    before = children()
    found = plugin_texts(
        PluginRequest(str(write_plugin(tmp_path, source("while True: yield {'text': 'a'}"))), "Source", "en")
    )
    assert list(islice(found, 3)) == ["a", "a", "a"]
    assert len(children()) == len(before) + 1
    found.close()  # type: ignore[attr-defined]
    assert children() == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_its_process_ends_with_ours(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    load = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    path = write_plugin(tmp_path, source(load))
    code = f"from hubquant.plugins import *; list(plugin_texts(PluginRequest({str(path)!r}, 'Source', 'en')))"
    ours = subprocess.Popen([sys.executable, "-c", code])
    while not (mark.exists() and mark.read_text()):
        time.sleep(0.01)
    theirs = psutil.Process(int(mark.read_text()))
    ours.send_signal(signal.SIGKILL)
    ours.wait()
    psutil.wait_procs([theirs], timeout=30)
    assert not theirs.is_running() or theirs.status() == psutil.STATUS_ZOMBIE

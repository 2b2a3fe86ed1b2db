"""What a file of models says, and what is remembered of a batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubquant.errors import OutputError, UserError
from hubquant.jobs.models import BatchRecord, BatchState, NamedModel, entries, opened, read_lines


def test_a_line_names_a_model_and_perhaps_a_repository(tmp_path: Path) -> None:
    (tmp_path / "my models" / "c").mkdir(parents=True)
    path = tmp_path / "models.txt"
    path.write_text(f"# mine\norg/a@v1\n\norg/b me/B-GGUF  # soon\n'{tmp_path}/my models/c'\n")
    lines = read_lines(path)
    assert lines == [NamedModel("org/a@v1"), NamedModel("org/b", "me/B-GGUF"), NamedModel(f"{tmp_path}/my models/c")]
    found = entries(lines, "out", "me/{org}_{model}-GGUF")
    assert [entry.to for entry in found] == ["me/org_a-GGUF", "me/B-GGUF", "me/local_c-GGUF"]
    assert [str(entry.out) for entry in found] == ["out/a-GGUF", "out/b-GGUF", "out/c-GGUF"]
    assert (found[0].model.id, found[0].model.revision) == ("org/a", "v1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("org/a b c", "left over"),
        ("'org/a", "line 1"),
        ("# nothing\n", "names no model"),
        ("org/a\norg/a", "named twice"),
        ("one/a\ntwo/a", "both be made in"),
        ("one/a me/X\ntwo/b me/X", "both be made in me/X"),
        ("org/a a/b/c", "no repository can be called so"),
        ("a/b/c/d", "within the repository"),
    ],
)
def test_mistakes_are_told_before_any_work(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "models.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        entries(read_lines(path), "{model}-GGUF", None)


@pytest.mark.parametrize("template", ["{name}", "{", "{0}", "{}"])
def test_a_template_has_known_fields(template: str) -> None:
    with pytest.raises(UserError, match="--push"):
        entries([NamedModel("org/a")], "out", template)


def test_a_state_is_kept_and_one_process_has_it(tmp_path: Path) -> None:
    [entry] = entries([NamedModel("org/a")], str(tmp_path), None)
    path = tmp_path / "states" / "a.json"
    record = BatchRecord(model="org/a", hubquant="1", revision="abc", files={"a.gguf": 3})
    with opened(path) as memory:
        memory.put(entry, record)
        with pytest.raises(OutputError, match="in use"), opened(path):
            pass
    assert BatchState(path).get(entry) == record


def test_another_file_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    with pytest.raises(OutputError, match="not the state"):
        BatchState(tmp_path / "notes.json")

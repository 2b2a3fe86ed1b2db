"""Recipes: every way to name one, and every mistake in one."""

import os
import re
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import hubquant
from hubquant.errors import RecipeError, UserError
from hubquant.recipe import Override, Recipe, dump_recipe, load_recipe, override_recipe, parse_recipe, schema


def test_a_model_id_is_a_recipe() -> None:
    recipe = load_recipe("Qwen/Qwen3-0.6B")
    assert recipe.model.id == "Qwen/Qwen3-0.6B"
    assert "Q4_K_M" in recipe.quantize.types


def test_a_folder_is_a_recipe(tmp_path: Path) -> None:
    assert load_recipe(str(tmp_path)).model.folder == str(tmp_path)


def test_the_quickstart_is_packaged() -> None:
    assert load_recipe("quickstart").model.bundled == "demo"


def test_the_default_recipe_states_the_defaults() -> None:
    assert load_recipe("default", ["model=org/name"]) == load_recipe("org/name")


def test_overrides_reach_any_field() -> None:
    recipe = load_recipe("org/name", ["quantize.types=[Q4_0, Q8_0]", "model.revision=v2", "calibration.chunks=3"])
    assert recipe.quantize.types == ("Q4_0", "Q8_0")
    assert recipe.model.revision == "v2"
    assert recipe.model.id == "org/name"
    assert recipe.calibration.chunks == 3


def test_a_dumped_recipe_loads_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe(
        "org/name", ["quantize.rules=[{match: ffn_down, type: Q6_K}]", "gates.kld_mean={Q4_K_M: 0.05}"]
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe), "utf-8")
    assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("overrides", "what", "hint"),
    [
        (["quantize.typs=[Q8_0]"], "unknown key quantize.typs", "types"),
        (["calibration.sources=[{fil: a.txt}]"], "unknown key calibration.sources.0.fil", "file"),
        (["quantise={}"], "unknown key quantise", "quantize"),
        (["quantize.mode=fast"], "quantize.mode", ""),
        (["calibration.chunks=many"], "calibration.chunks", ""),
        (["calibration.chunks=0"], "calibration.chunks", ""),
        (["gates.kld_mean={Q8_0: .nan}"], "gates.kld_mean.Q8_0 must be a number, not .nan", ""),
        (["calibration.sources=[{bundled: test, weight: .inf}]"], "weight must be a number larger than 0", ""),
        (["calibration.sources=[{bundled: test, weight: 1e+300}]"], "larger than 0 of at most 1e+09", ""),
        (["version=2"], "version", ""),
        (["calibration.sources=[{file: a.txt, dataset: b/c}]"], "exactly one of", ""),
        (["calibration.sources=[{plugin: a.py, langs: [en]}]"], "such as my_source.py:MySource", ""),
        (["calibration.sources=[{plugin: 'a.py:B'}]"], "langs is missing", ""),
        (["calibration.sources=[{plugin: 'a.py:B', langs: [en, en]}]"], "en is given twice", ""),
        (["calibration.sources=[{dataset: a/b, langs: [en]}]"], "{lang} in file, config, split or field belong", ""),
        (["calibration.sources=[{dataset: a/b, config: '{lang}'}]"], "belong together", ""),
        (["quantize"], "not an override", "--set"),
        (["quantize.mode=exact", "quantize.mode.x=1"], "no keys below", ""),
    ],
)
def test_mistakes_are_named(overrides: list[str], what: str, hint: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("org/name", overrides)
    assert what in str(error.value)
    assert hint in (error.value.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system ['true']",
        "model: !custom x",
        "a: &x 1\nmodel: *x",
        "model: a/b\nmodel: c/d",
        "model: [",
        "- a",
        "model: {id: a/b}\n\tx: 1",
        "",
    ],
)
def test_yaml_that_is_no_recipe(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(RecipeError):
        load_recipe(str(path))


def test_recipe_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no recipe"):
        load_recipe(str(tmp_path / "none.yaml"))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("model: café/x".encode("latin-1"))
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(str(latin))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(RecipeError):
        load_recipe(str(tmp_path / "folder.yaml"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_a_pipe_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(RecipeError, match="cannot be read: it is a pipe or a device"):
        load_recipe(str(tmp_path / "pipe.yaml"))


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("modle: org/name", "modle", "did you mean model?"),
        ("{model: org/name, quantize: {types: [{nam: A, type: Q8_0}]}}", "quantize.types.0.nam", "types.0.name?"),
    ],
)
def test_a_misspelt_key_is_told_before_the_missing_one(text: str, key: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(RecipeError, match=f"unknown key {key}") as caught:
        load_recipe(str(path))
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_a_hub_recipe_is_fetched(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: org/name\nquantize: {types: [Q4_0]}", "utf-8")
    fetched: list[str] = []

    def fetch(repository: str) -> Path:
        fetched.append(repository)
        return path

    assert load_recipe("hub:me/name-GGUF", fetch=fetch).quantize.types == ("Q4_0",)
    assert fetched == ["me/name-GGUF"]
    path.write_text(yaml.safe_dump({"model": "org/name", "imatrix": {"file": "hub:org/name/imatrix.gguf"}}), "utf-8")
    assert load_recipe("hub:me/name-GGUF", fetch=fetch).imatrix.given == ("hub:org/name/imatrix.gguf",)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"calibration": {"sources": [{"file": "/etc/passwd"}]}}, "calibration.sources"),
        ({"evaluate": {"sources": [{"bundled": "test"}, {"file": "~/.ssh/id_rsa"}]}}, "evaluate.sources"),
        ({"calibration": {"sources": [{"dataset": "/etc"}]}}, "calibration.sources.0.dataset"),
        ({"calibration": {"sources": [{"dataset": "./texts"}]}}, "calibration.sources.0.dataset"),
        ({"evaluate": {"sources": [{"dataset": "~/texts"}]}}, "evaluate.sources.0.dataset"),
        ({"calibration": {"sources": [{"plugin": "my.py:Mine", "langs": ["en"]}]}}, "plugin my.py:Mine"),
        ({"evaluate": {"sources": [{"plugin": "/my.py:Mine", "langs": ["en"]}]}}, "plugin /my.py:Mine"),
        ({"calibration": {"sources": [{"file": "{lang}", "langs": ["passwd"]}]}}, "calibration.sources"),
        ({"imatrix": {"file": "/etc/passwd"}}, "imatrix.file"),
        ({"imatrix": {"files": ["hub:org/name/imatrix.gguf", "/etc/passwd"]}}, "imatrix.files"),
        ({"imatrix": {"files": "/etc/passwd"}}, "imatrix.files"),
        ({"imatrix": {"file": "HUB:org/name/imatrix.gguf"}}, "imatrix.file"),
        ({"model": "/etc"}, "model.id"),
        ({"model": "./x"}, "model.id"),
        ({"model": "~"}, "model.id"),
        ({"model": "file.gguf/../../x"}, "model.id"),
        ({"model": {"id": "/etc"}}, "model.id"),
        ({"model": {"folder": "org/name"}}, "model.folder"),
        ({"model": {"file": "a.gguf"}}, "model.file"),
        ({"model": {"folder": ""}}, "model.folder"),
        ({"calibration": {"sources": [{"file": ""}]}}, "calibration.sources"),
        ({"calibration": {"sources": {"file": "/etc/passwd"}}}, "calibration.sources"),
        ({"imatrix": {"file": ["/etc/passwd"]}}, "imatrix.file"),
        ({"model": {"id": "org/name", "allow_pickle": True}}, "model.allow_pickle"),
        ({"model": ["org/name"]}, "model"),
        ({"publish": {"to": "alice/precious"}}, "publish.to"),
        ({"publish": {"private": True}}, "publish.private"),
        ({"publish": "alice/precious"}, "publish"),
    ],
)
def test_a_hub_recipe_does_not_reach_this_machine(part: dict[str, Any], field: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"model": "org/name", **part}), "utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe("hub:me/name-GGUF", fetch=lambda _: path)
    assert "hub:me/name-GGUF" in str(error.value)
    assert field in str(error.value)


def test_merged_keys_do_not_hide_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {id: org/name}\nimatrix: {<<: {file: /etc/passwd}}", "utf-8")
    with pytest.raises(RecipeError):
        load_recipe("hub:me/name-GGUF", fetch=lambda _: path)


def test_what_the_user_sets_is_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = "publish: {to: alice/precious}\nmodel: {folder: /theirs}\ncalibration: {sources: [{file: a.txt}]}"
    path.write_text(text, "utf-8")
    mine = ["publish.to=alice/precious", "model={folder: /mine}", "calibration.sources=[{file: a.txt}]"]
    recipe = load_recipe("hub:me/name-GGUF", mine, fetch=lambda _: path)
    assert (recipe.publish.to, recipe.model.folder) == ("alice/precious", "/mine")
    for left_out in range(3):
        with pytest.raises(RecipeError, match="cannot be run as it is"):
            load_recipe("hub:me/name-GGUF", mine[:left_out] + mine[left_out + 1 :], fetch=lambda _: path)


def test_a_name_on_the_hub_is_not_a_folder_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "recipe.yaml").write_text("model: org/name", "utf-8")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("hub:me/name-GGUF", fetch=lambda _: tmp_path / "recipe.yaml")
    assert (recipe.model.id, recipe.model.folder) == ("org/name", None)


def test_recipes_are_mappings() -> None:
    with pytest.raises(RecipeError, match="mapping"):
        parse_recipe(["model"])


PYDANTIC = (
    *("a valid", "input should", "instance of", "tuple", "dictionary", "pydantic", "string", "integer", "boolean"),
    *("unable to", "parsing", "model_", "validation"),
)
WRONG: dict[str, Any] = {
    "number": 7,
    "fraction": 7.5,
    "negative": -3,
    "text": "zzz",
    "empty": "",
    "truth": True,
    "nothing": None,
    "list": [1, {"zzz": 1}],
    "list of lists": [[1]],
    "mapping": {"zzz": {"zzz": []}},
    "odd keys": {1: 2},
    "date": date(2026, 11, 29),
    "not a number": float("nan"),
    "long": "z" * 5000,
}


def _fields(model: type[BaseModel] = Recipe, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field of the schema; "0" stands for the first of a list."""
    for name, info in model.model_fields.items():
        yield (*above, name)
        for nested in re.findall(r"hubquant\.recipe\.schema\.(\w+)", str(info.annotation)):
            kind = getattr(schema, nested)
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _fields(kind, (*above, name, "0") if "tuple" in str(info.annotation) else (*above, name))


def _with(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A recipe with ``value`` at ``path``."""
    data: dict[str, Any] = {"model": {"id": "org/name"}}
    place: Any = data
    for part, after in zip(path, (*path[1:], None), strict=True):
        if after is None:
            place[part] = value
        else:
            place = place[0] if part == "0" else place.setdefault(part, [{}] if after == "0" else {})
    return data


@pytest.mark.parametrize("path", _fields(), ids=".".join)
def test_a_wrong_kind_of_value_is_explained_in_plain_words(path: tuple[str, ...]) -> None:
    refused = 0
    for value in WRONG.values():
        try:
            parse_recipe(_with(path, value), "recipe.yaml")
        except RecipeError as error:
            refused += 1
            message = f"{error} {error.hint or ''}".lower()
            assert not [word for word in PYDANTIC if word in message], message
            assert path[0] in message
            assert len(message) < 500
    assert refused >= len(WRONG) // 2


def test_every_field_is_covered() -> None:
    assert {("quantize", "rules", "0", "match"), ("gates", "kld_mean"), ("model", "id")} <= set(_fields())


@pytest.mark.parametrize(
    ("override", "what", "hint"),
    [
        ("quantize.types={a: 1}", "--set quantize.types must be a list, not a mapping", "--set quantize.types=[Q8_0"),
        ("quantize.types=[1]", "--set quantize.types: quantize.types.0 must be text, not 1", "'1'"),
        ("quantize.mode=Exat", "--set quantize.mode must be one of exact, best, not 'Exat'", "did you mean exact?"),
        ("quantize.pure=maybe", "--set quantize.pure must be true or false, not 'maybe'", "quantize.pure=true"),
        ("calibration.chunks=0", "must be a whole number larger than 0, not 0", "--set calibration.chunks=250"),
        ("calibration.chunk_size=3", "must be a whole number of at least 16, not 3", "calibration.chunk_size=512"),
        ("calibration.chunks=2.5", "must be a whole number larger than 0, not 2.5", "250"),
        ("evaluate=skip", "--set evaluate must be a mapping of keys to values, not 'skip'", "its keys are sources"),
        ("gates.kld_mean=0.05", "must be a mapping of names to numbers, not 0.05", "{name: 0.05}"),
        ("gates.kld_mean={Q4_K_M: low}", "gates.kld_mean.Q4_K_M must be a number, not 'low'", "Q4_K_M=0.05"),
        ("model.revision=1234567", "--set model.revision must be text, not 1234567", "'1234567'"),
        ("imatrix.include_weights=['']", "must be text that is not empty", "text"),
        ("chunks=10", "--set chunks: unknown key chunks", "did you mean calibration.chunks or evaluate.chunks?"),
        ("mode=exact", "unknown key mode", "did you mean quantize.mode?"),
        ("quantize.xyzzy=1", "unknown key quantize.xyzzy", "valid here: types, mode"),
        ("calibration.sources=[{file: a.txt, weight: 0}]", "sources.0.weight must be a number larger than 0", "1.0"),
    ],
)
def test_messages_say_what_a_field_takes(override: str, what: str, hint: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("org/name", [override])
    assert what in str(error.value)
    assert hint in (error.value.hint or "")


def test_a_list_may_be_given_with_commas() -> None:
    overrides = ["quantize.types=Q4_K_M, Q8_0", "imatrix.include_weights=ffn_down"]
    recipe = load_recipe("org/name", overrides)
    assert recipe.quantize.types == ("Q4_K_M", "Q8_0")
    assert recipe.imatrix.include_weights == ("ffn_down",)
    with pytest.raises(RecipeError, match="sources must be a list"):
        load_recipe("org/name", ["evaluate.sources=a.txt"])


def test_only_repositories_have_revisions(tmp_path: Path) -> None:
    assert load_recipe("org/name", ["model.revision=v2"]).model.revision == "v2"
    with pytest.raises(RecipeError, match="a revision is that of a repository on the Hub"):
        load_recipe(str(tmp_path), ["model.revision=v2"])


def test_in_a_file_the_message_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: org/name\nquantize: {types: Q8_0}", "utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(str(path))
    assert str(error.value) == f"{path}: quantize.types must be a list, not 'Q8_0'"
    assert error.value.hint == "write types: [Q8_0]"
    path.write_text("quantize: {types: [Q8_0]}", "utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(str(path))
    assert error.value.what == f"{path}: model is missing"


def test_a_flag_is_named_as_it_was_typed() -> None:
    with pytest.raises(RecipeError, match="--push must be text"):
        load_recipe("org/name", [Override("publish.to", 5, "--push")])


def test_a_recipe_object_takes_overrides() -> None:
    recipe = load_recipe("org/name", ["calibration.chunks=3", "quantize.types=[Q4_0]"])
    changed = override_recipe(recipe, ["quantize.mode=exact", "model.revision=v2"])
    assert (changed.quantize.mode, changed.quantize.types, changed.model.revision) == ("exact", ("Q4_0",), "v2")
    assert changed.calibration == recipe.calibration
    assert override_recipe(recipe, []) == recipe
    with pytest.raises(RecipeError, match=r"--set quantize\.mode must be one of"):
        override_recipe(recipe, ["quantize.mode=fast"])


def test_a_recipe_takes_the_name_of_its_model() -> None:
    assert Recipe(model="org/name@v2") == load_recipe("org/name@v2")
    assert Recipe(model="m.gguf", quantize={"types": ["Q4_0"]}).model.file == "m.gguf"
    with pytest.raises(UserError, match=r"there is no data\.txt"):
        Recipe(model="data.txt")


def test_plain_data_takes_overrides_and_stays_as_it_is() -> None:
    data = {"model": "org/name", "quantize": {"types": ["Q4_0"]}}
    changed = override_recipe(data, ["quantize.mode=exact", "model.revision=v2"])
    assert changed == load_recipe("org/name", ["quantize={mode: exact, types: [Q4_0]}", "model.revision=v2"])
    assert data == {"model": "org/name", "quantize": {"types": ["Q4_0"]}}
    with pytest.raises(RecipeError, match="recipe: model is missing"):
        override_recipe({}, [])


def test_one_override_needs_no_list() -> None:
    with pytest.raises(RecipeError, match=r"quantize\.mode must be"):
        hubquant.plan("quickstart", overrides="quantize.mode=exat")

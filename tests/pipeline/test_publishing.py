"""What is settled before files are published: licence, access, names, and the user's own card."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hubquant.errors import OutputError, RecipeError
from hubquant.gguf_file import GGUFFile
from hubquant.pipeline.publishing import card_template, check_license
from hubquant.publish.card import render
from hubquant.publish.example import example_card
from hubquant.recipe import parse_recipe
from hubquant.recipe.schema import Publish, Recipe
from tests.support.cli import hubquant
from tests.support.localhub import LocalHub

SOURCE, TARGET = "org/tiny", "alice/tiny-GGUF"
QUICK = ("--types", "Q8_0", "--set", "imatrix.skip=true", "--set", "evaluate.skip=true")


def add(hub: LocalHub, model: Path, front: str = "license: mit", gated: str | bool = False) -> None:
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    hub.add(SOURCE, {**files, "README.md": f"---\n{front}\n---\n".encode()}, gated=gated)
    hub.repository(SOURCE).granted.add("alice")


@pytest.mark.parametrize(
    "card",
    [
        {"license": "cc-by-nc-nd-4.0"},
        {"license": ["mit", "cc-by-nd-4.0"]},
        {"license": "other", "license_name": "my-no-derivatives"},
        {"license": "other", "license_name": "No Derivs 1.0"},
        {"license": "CC-BY-ND"},
    ],
)
def test_a_licence_without_derivatives_needs_a_permission(card: dict[str, object]) -> None:
    with pytest.raises(OutputError, match="allows no derivatives"):
        check_license(card, "org/tiny", Publish())
    check_license(card, "org/tiny", Publish(i_have_permission=True))


@pytest.mark.parametrize("license", ["mit", "cc-by-nc-sa-4.0", "gemma", "and-more", "bsd-3-clause", None, 3, []])
def test_other_licences_need_none(license: object) -> None:
    check_license({"license": license}, "org/tiny", Publish())


def test_the_licence_stops_a_push_before_any_work(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    add(hub, tiny_llama, "license: cc-by-nc-nd-4.0")
    out = str(tmp_path / "out")
    refused = hubquant("plan", SOURCE, "--out", out, "--push", TARGET, *QUICK)
    assert refused.code == 2
    assert "its licence, cc-by-nc-nd-4.0, allows no derivatives" in refused.err
    assert "--i-have-permission" in refused.err
    assert hubquant("run", SOURCE, "--out", out, *QUICK).code == 0
    for dry in ([], ["--dry-run"]):
        refused = hubquant("publish", out, "--to", TARGET, *dry)
        assert (refused.code, ("model", TARGET) in hub.repositories) == (2, False)
        assert "allows no derivatives" in refused.err
    assert hubquant("publish", out, "--to", TARGET, "--dry-run", "--i-have-permission").code == 0
    allowed = hubquant("publish", out, "--to", TARGET, "--i-have-permission")
    assert allowed.code == 0, allowed.err
    assert "i_have_permission" not in hub.content(TARGET, "recipe.yaml").decode()
    planned = hubquant("plan", SOURCE, "--out", out, "--push", TARGET, "--i-have-permission", *QUICK)
    assert planned.code == 0, planned.err


@pytest.mark.parametrize(("gated", "wanted", "expected"), [("manual", "inherit", "manual"), (False, "auto", "auto")])
def test_access_is_asked_for_as_with_the_source(
    hub: LocalHub, tiny_llama: Path, tmp_path: Path, gated: str | bool, wanted: str, expected: str
) -> None:
    add(hub, tiny_llama, "license: mit\nextra_gated_prompt: Agree.\ntags: [not-for-all-audiences]", gated)
    line = ("run", SOURCE, "--out", str(tmp_path / "out"), "--push", TARGET, *QUICK)
    assert hubquant(*line).code == 0
    assert hub.repository(TARGET).gated is False
    outcome = hubquant(*line, "--set", f"publish.gated={wanted}")
    assert outcome.code == 0, outcome.err
    assert hub.repository(TARGET).gated == expected
    front = yaml.safe_load(hub.content(TARGET, "README.md").decode().split("---")[1])
    assert front["extra_gated_prompt"] == "Agree."
    assert "not-for-all-audiences" in front["tags"]
    lines = [entry.line for entry in hub.log if "/settings" in entry.path]
    assert hubquant(*line, "--set", f"publish.gated={wanted}").code == 0
    assert [entry.line for entry in hub.log if "/settings" in entry.path] == lines


def test_names_in_files_are_those_of_the_recipe(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    add(hub, tiny_llama)
    line = ("run", SOURCE, "--out", str(tmp_path / "out"), "--push", TARGET, *QUICK)
    assert hubquant(*line).code == 0
    before = GGUFFile.open(tmp_path / "out" / "tiny-Q8_0.gguf").metadata
    assert before["general.quantized_by"].value == "hubquant"
    given = {"name": "Tiny One", "quantized_by": "Alice & Co", "repo_url": f"https://huggingface.co/{TARGET}"}
    settings = [part for key, value in given.items() for part in ("--set", f"publish.{key}={value}")]
    outcome = hubquant(*line, *settings)
    assert outcome.code == 0, outcome.err
    after = GGUFFile.open(tmp_path / "out" / "tiny-Q8_0.gguf").metadata
    assert {key: after[f"general.{key}"].value for key in given} == given
    assert {key for key in after if after[key] != before.get(key)} == {f"general.{key}" for key in given}
    card = hub.content(TARGET, "README.md").decode()
    assert yaml.safe_load(card.split("---")[1])["quantized_by"] == "Alice & Co"
    assert "by Alice &amp; Co" in card
    assert yaml.safe_load(hub.content(TARGET, "recipe.yaml"))["publish"] == given


CARD = """\
{% extends "card.md.jinja" %}
{% block credits %}
Quantized with care.
{{ super() }}
{% endblock %}
"""


def test_a_card_of_ones_own(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    add(hub, tiny_llama)
    template = tmp_path / "my-card.jinja"
    template.write_text(CARD)
    line = ("run", SOURCE, "--out", str(tmp_path / "out"), *QUICK, "--set", f"publish.card={template}")
    assert hubquant(*line).code == 0
    assert "\nQuantized with care.\nMade with hubquant" in (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["publish"] == {"card": str(template)}
    template.write_text("# {{ card.model_name | text }}\n")
    assert hubquant("publish", str(tmp_path / "out"), "--to", TARGET).code == 0
    published = hub.content(TARGET, "README.md").decode()
    assert "Quantized with care." in published
    assert "card" not in yaml.safe_load(hub.content(TARGET, "recipe.yaml")).get("publish", {})
    assert hubquant(*line, "--push", TARGET).code == 0
    card = hub.content(TARGET, "README.md").decode()
    assert card.split("---\n")[2].strip().startswith("# tiny\n\nMade with hubquant ")
    assert hubquant(*line, "--push", TARGET).code == 0


def test_a_template_may_have_the_name_of_the_packages(tmp_path: Path) -> None:
    (tmp_path / "card.md.jinja").write_text(CARD)
    template = card_template(Recipe(model="org/x", publish={"card": str(tmp_path / "card.md.jinja")}))
    assert "\nQuantized with care.\n" in render(example_card(measured=True), template)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% if %}", "my-card.jinja, line 1: Expected an expression"),
        ("\n{{ card.no_such_field }}", "my-card.jinja, line 2: .*no_such_field"),
        ("\n\n{{ nothing }}", "my-card.jinja, line 3: 'nothing' is undefined"),
        ("{{ ''.__class__.__mro__ }}", "my-card.jinja, line 1: access to attribute '__class__' .* unsafe"),
        ("{{ card.files.clear() }}", "my-card.jinja, line 1: "),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "my-card.jinja, line 1: maximum recursion"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "my-card.jinja, line 1: Range too big"),
        ("{{ 1 / 0 }}", "my-card.jinja, line 1: division by zero"),
        ("{{ 'a' * 10 ** 18 }}", "my-card.jinja, line 1: MemoryError"),
        ("{% include '/etc/passwd' %}", "my-card.jinja, line 1: /etc/passwd"),
        ("{{ card.files[0].divergence.kld.mean }}", None),
        ("\xff", "is not UTF-8"),
    ],
)
def test_a_template_that_fails_is_refused_by_the_plan(tmp_path: Path, text: str, message: str | None) -> None:
    (tmp_path / "my-card.jinja").write_bytes(text.encode("latin-1"))
    recipe = Recipe(model="quickstart-model/x", publish={"card": str(tmp_path / "my-card.jinja")})
    if message is None:
        assert card_template(recipe) is not None
        return
    with pytest.raises(RecipeError, match=message):
        card_template(recipe)


def test_a_template_for_measurements_is_refused_where_nothing_is_measured(tmp_path: Path) -> None:
    (tmp_path / "my-card.jinja").write_text("{{ card.files[0].divergence.kld.mean }}")
    publish = {"card": str(tmp_path / "my-card.jinja")}
    with pytest.raises(RecipeError, match="has no attribute"):
        card_template(Recipe(model="org/x", publish=publish, evaluate={"skip": True}))
    with pytest.raises(RecipeError, match="cannot be read"):
        card_template(Recipe(model="org/x", publish={"card": str(tmp_path / "none.jinja")}))


def test_a_stranger_chooses_no_template_and_no_access(hub: LocalHub) -> None:
    for setting in ({"card": "/home/me/secret"}, {"gated": "auto"}, {"i_have_permission": True}):
        hub.add(TARGET, {"recipe.yaml": yaml.safe_dump({"model": {"id": SOURCE}, "publish": setting}).encode()})
        refused = hubquant("plan", f"hub:{TARGET}")
        assert refused.code == 2
        assert f"publish.{next(iter(setting))}" in refused.err
    assert parse_recipe({"model": {"id": SOURCE}, "publish": {"name": "x"}}).publish.name == "x"

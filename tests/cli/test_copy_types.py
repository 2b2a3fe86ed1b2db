"""Types that are copied make the same types."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hubquant.commands.gguf_types import rules
from hubquant.gguf_file import GGUFFile
from hubquant.recipe.schema import Recipe
from tests.support.cli import hubquant

names = st.dictionaries(
    st.one_of(
        st.builds("blk.{}.{}.weight".format, st.integers(0, 12), st.sampled_from(["ffn_up", "ffn_up_exps", "a+b"])),
        st.sampled_from(
            ["output.weight", "token_embd.weight", "enc.blk.1.a.weight", "outputXweight", "x.blk.1.ffn_up.weight"]
        ),
    ),
    st.none() | st.sampled_from(["Q4_K", "Q8_0"]),
    max_size=20,
)


@given(names)
def test_each_tensor_matches_its_own_rule_and_the_others_none(types: dict[str, str | None]) -> None:
    found = rules({name: type for name, type in types.items() if type}, types)
    for name, expected in types.items():
        assert [type for match, type in found if re.search(match, name)] == ([expected] if expected else [])


@pytest.fixture(scope="module")
def floats(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("types") / "f16.gguf"
    assert hubquant("convert", str(tiny_llama), "-t", "F16", "-o", str(out)).code == 0
    return out


@pytest.fixture(scope="module")
def mixed(floats: Path) -> Path:
    out = floats.with_name("mixed.gguf")
    rules = ("--tensor-type", "blk.0.ffn_up=Q8_0", "--tensor-type", "attn_v=F16", "--token-embedding-type", "Q5_0")
    assert hubquant("quantize", str(floats), "-t", "Q4_0", *rules, "-o", str(out)).code == 0
    return out


def types(path: Path) -> dict[str, str]:
    return {name: tensor.type for name, tensor in GGUFFile.open(path).tensors.items()}


def test_lines_make_a_file_of_the_same_types(floats: Path, mixed: Path, tmp_path: Path) -> None:
    printed = hubquant("gguf", "copy-types", str(mixed), str(floats))
    assert "note: quantize with --type Q4_0" in printed.err
    assert r"^blk\.0\.ffn_up\.weight$=q8_0" in printed.out.splitlines()
    (tmp_path / "types.txt").write_text(printed.out, "utf-8")
    like = tmp_path / "like.gguf"
    flags = ("-t", "Q4_0", "--tensor-type-file", str(tmp_path / "types.txt"))
    assert hubquant("quantize", str(floats), *flags, "-o", str(like)).code == 0
    assert types(like) == types(mixed)


def test_a_recipe_takes_the_same_rules(floats: Path, tiny_llama: Path, mixed: Path) -> None:
    of_file = hubquant("gguf", "copy-types", str(mixed), str(floats), "--recipe")
    of_folder = hubquant("gguf", "copy-types", str(mixed), str(tiny_llama), "--recipe", "--quiet")
    assert of_file.out == of_folder.out
    recipe = Recipe.model_validate({"model": str(tiny_llama), **yaml.safe_load(of_file.out)})
    assert recipe.quantize.types == ("Q4_0",)
    lines = hubquant("gguf", "copy-types", str(mixed), str(floats)).out.splitlines()
    assert [f"{rule.match}={rule.type.lower()}" for rule in recipe.quantize.rules] == lines
    assert json.loads(hubquant("gguf", "copy-types", str(mixed), str(floats), "--json").out)["types"] == ["Q4_0"]


def test_weights_that_the_file_does_not_have_are_noted(floats: Path, mixed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    content = mixed.read_bytes().replace(b"blk.0.ffn_up.weight", b"blk.0.ffn_UP.weight")
    other.write_bytes(content)
    outcome = hubquant("gguf", "copy-types", str(other), str(floats))
    assert "note: 1 weights of" in outcome.err
    assert "first blk.0.ffn_up.weight" in outcome.err
    assert "ffn_up" in outcome.out  # of the other blocks
    assert re.search(r"blk\\\.\[0-9\]\+\\\.ffn_up", outcome.out) is None


def test_a_file_of_something_else_is_refused(floats: Path, tmp_path: Path) -> None:
    from tests.support.gguf_bytes import write_sample

    outcome = hubquant("gguf", "copy-types", str(write_sample(tmp_path / "sample.gguf")), str(floats))
    assert (outcome.code, outcome.out, outcome.is_one_message()) == (2, "", True)
    assert "is it the same model?" in outcome.err

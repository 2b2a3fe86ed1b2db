"""The ladders that people publish: files with settings of their own beside plain ones, in one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hubquant.gguf_file import GGUFFile
from hubquant.recipe import load_recipe
from tests.support.cli import hubquant

LADDER = Path(__file__).parents[2] / "recipes" / "ladder.yaml"
EIGHT_BITS = ["--output-tensor-type", "Q8_0", "--token-embedding-type", "Q8_0"]
RULES = ["attn_v=Q6_K", r"^blk\.0\.=Q5_K"]
NAMED: dict[str, tuple[str, list[str]]] = {
    "Q4_K_L": ("Q4_K_M", EIGHT_BITS),
    "Q6_K_L": ("Q6_K", EIGHT_BITS),
    "Q3_K_XL": ("Q3_K_L", EIGHT_BITS),
    "UD-Q4_K_XL": ("Q4_K_M", ["--tensor-type", RULES[0], "--tensor-type", RULES[1], "--pure"]),
}
RECIPE = """
quantize:
  types:
    - Q8_0
    - {name: Q4_K_L, type: Q4_K_M, output_tensor: Q8_0, token_embedding: Q8_0}
    - Q4_K_M
    - {name: Q6_K_L, type: Q6_K, output_tensor: Q8_0, token_embedding: Q8_0}
    - {name: Q3_K_XL, type: Q3_K_L, output_tensor: Q8_0, token_embedding: Q8_0}
    - name: UD-Q4_K_XL
      type: Q4_K_M
      pure: true
      rules: [{match: attn_v, type: Q6_K}, {match: '^blk\\.0\\.', type: Q5_K}]
imatrix: {skip: true}
evaluate: {skip: true}
"""


@pytest.fixture(scope="module")
def line(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("ladder")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"model": {"folder": str(tiny_llama)}}) + RECIPE)
    return [str(folder / "recipe.yaml"), "--out", str(folder / "out")]


@pytest.fixture(scope="module")
def out(line: list[str]) -> Path:
    outcome = hubquant("run", *line)
    assert outcome.code == 0, outcome.err
    return Path(line[-1])


def types_in(path: Path) -> dict[str, str]:
    return {name: entry.type for name, entry in GGUFFile.open(path).tensors.items()}


def test_the_plan_shows_each_file(line: list[str], out: Path) -> None:
    shown = hubquant("plan", *line)
    assert shown.code == 0, shown.err
    assert "tiny-llama-UD-Q4_K_XL.gguf" in shown.out
    planned = {file["type"]: file for file in json.loads(hubquant("plan", *line, "--json").out)["files"]}
    assert list(planned) == ["Q8_0", "Q4_K_L", "Q4_K_M", "Q6_K_L", "Q3_K_XL", "UD-Q4_K_XL"]
    for name in planned:
        path = out / f"tiny-llama-{name}.gguf"
        assert (planned[name]["name"], planned[name]["size"]) == (path.name, path.stat().st_size)
        assert planned[name]["tensors"] == types_in(path)


def test_each_file_is_what_its_settings_alone_give(out: Path, tiny_llama: Path, tmp_path: Path) -> None:
    for name, (type, flags) in NAMED.items():
        alone = hubquant("quantize", str(tiny_llama), "-t", type, *flags, "-o", str(tmp_path / f"{name}.gguf"))
        assert alone.code == 0, alone.err
        assert (out / f"tiny-llama-{name}.gguf").read_bytes() == (tmp_path / f"{name}.gguf").read_bytes()
    large, plain = types_in(out / "tiny-llama-Q4_K_L.gguf"), types_in(out / "tiny-llama-Q4_K_M.gguf")
    eight = {"output.weight": "Q8_0", "token_embd.weight": "Q8_0"}
    assert large == {**plain, **eight} != plain
    mix = types_in(out / "tiny-llama-UD-Q4_K_XL.gguf")
    assert (mix["blk.0.attn_v.weight"], mix["blk.0.ffn_up.weight"], mix["blk.1.ffn_up.weight"]) == (
        "Q6_K",
        "Q5_K",
        "Q4_K",
    )


def test_settings_of_a_file_are_part_of_its_metadata(out: Path) -> None:
    hashes = {GGUFFile.open(path).metadata["hubquant.recipe_sha256"].value for path in out.glob("*.gguf")}
    assert len(hashes) == len(list(out.glob("*.gguf"))) == 6


def test_card_and_recipe_name_them(out: Path) -> None:
    assert "UD-Q4_K_XL" in (out / "README.md").read_text()
    published = load_recipe(str(out / "recipe.yaml")).quantize
    assert set(published.names) == {"Q8_0", "Q4_K_M", *NAMED}
    assert all(type != name for name, type in zip(published.names, published.types, strict=True) if name in NAMED)


def test_a_name_with_other_settings_is_told_and_made_again(line: list[str], out: Path) -> None:
    other = "quantize.types=[{name: Q4_K_L, type: Q4_K_M, output_tensor: Q6_K}]"
    steps = json.loads(hubquant("plan", *line, "--set", other, "--json").out)["steps"]
    assert [step["done"] for step in steps if step["name"] == "quantize"] == [False]
    fewer = hubquant("run", *line, "--types", "Q4_K_M")
    assert fewer.code == 0, fewer.err
    card = (out / "README.md").read_text()
    assert "with other settings" in card
    assert load_recipe(str(out / "recipe.yaml")).quantize.names == ("Q4_K_M", "Q8_0")
    steps = json.loads(hubquant("plan", *line, "--types", "Q4_K_L,q8_0", "--json").out)["steps"]
    assert [step["detail"] for step in steps if step["name"] == "quantize"] == ["Q4_K_L, Q8_0"]
    assert all(step["done"] for step in steps if step["name"] == "quantize")


def test_the_published_ladder_can_be_planned(tiny_llama: Path, tmp_path: Path) -> None:
    line = [str(LADDER), "--set", f"model={{folder: {tiny_llama}}}", "--out", str(tmp_path / "out"), "--json"]
    outcome = hubquant("plan", *line)
    assert outcome.code == 0, outcome.err
    planned = {file["type"]: file["tensors"] for file in json.loads(outcome.out)["files"]}
    assert planned["UD-Q4_K_XL"]["output.weight"] == "Q6_K"
    assert planned["UD-Q4_K_XL"]["blk.0.attn_q.weight"] == "Q6_K"
    assert planned["Q2_K_L"]["token_embd.weight"] == planned["Q2_K_L"]["output.weight"] == "Q8_0"


def test_gates_hold_for_names(line: list[str], tmp_path: Path) -> None:
    measured = "{skip: false, chunk_size: 64, chunks: 1}"
    settings = ["--set", f"evaluate={measured}", "--set", "gates.kld_mean={Q4_K_L: 0.0}"]
    outcome = hubquant("run", *line[:1], "--out", str(tmp_path), "--types", "Q4_K_L", *settings)
    assert outcome.code == 1, outcome.err
    assert "Q4_K_L is not published: its mean KLD is above 0.0" in outcome.out

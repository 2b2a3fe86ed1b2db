"""Files with settings and names of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubquant.errors import HubquantError, RecipeError
from hubquant.mix import check_recipe
from hubquant.recipe import dump_recipe, load_recipe
from hubquant.recipe.schema import NamedType, Recipe, Rule

LARGE = "{name: Q4_K_L, type: gguf:q4_k_m, output_tensor: Q8_0}"


def checked(*types: str, more: tuple[str, ...] = ()) -> Recipe:
    return check_recipe(load_recipe("org/name", [f"quantize.types=[{', '.join(types)}]", *more]))


def test_own_settings_stand_before_those_of_all_files(tmp_path: Path) -> None:
    rules = "rules: [{match: attn_v, type: Q6_K}]"
    common = ("quantize.rules=[{match: attn, type: Q5_K}]", "quantize.token_embedding=Q6_K", "quantize.pure=true")
    recipe = checked("Q8_0", f"{{name: UD-Q4_K_XL, type: Q4_K_M, output_tensor: Q8_0, {rules}}}", more=common)
    assert recipe.quantize.names == ("Q8_0", "UD-Q4_K_XL")
    plain, own = map(recipe.quantize.of, recipe.quantize.types)
    assert (plain.types, plain.output_tensor, plain.rules) == (("Q8_0",), None, recipe.quantize.rules)
    assert own.types == ("Q4_K_M",)
    assert own.rules == (Rule(match="attn_v", type="Q6_K"), Rule(match="attn", type="Q5_K"))
    assert (own.output_tensor, own.token_embedding, own.pure) == ("Q8_0", "Q6_K", True)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    assert load_recipe(str(path)) == recipe


def test_a_named_type_is_chosen_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: org/name\nquantize: {{types: [Q8_0, {LARGE}, Q4_K_M]}}")
    chosen = load_recipe(str(path), ["quantize.types=[q4_k_l, Q2_K]"]).quantize.types
    assert chosen == (NamedType(name="Q4_K_L", type="q4_k_m", output_tensor="Q8_0"), "Q2_K")


def test_gates_know_the_name() -> None:
    assert checked(LARGE, more=("gates.kld_mean={q4_k_l: 0.1}",)).gates.kld_mean == {"Q4_K_L": 0.1}
    with pytest.raises(RecipeError, match="Q4_K_M, which is not measured"):
        checked(LARGE, more=("gates.kld_mean={Q4_K_M: 0.1}",))


@pytest.mark.parametrize("name", ["Q4_K_L", "UD-Q4_K_XL", "q6_k_l", "Q3_K_XL", "IQ4_XS_2", "F16", "i1-Q4_0", "Q4_K_M"])
def test_names_that_programs_know(name: str) -> None:
    type = "F16" if name == "F16" else "Q4_K_M"
    assert checked(f"{{name: {name}, type: {type}}}").quantize.names == (name,)


@pytest.mark.parametrize(
    ("types", "what"),
    [
        (["{name: Q4_K_L.imat, type: Q4_K_M}"], "letters, digits"),
        (["{name: ../Q4_K_L, type: Q4_K_M}"], "letters, digits"),
        (["{name: 'Q4_K_L ', type: Q4_K_M}"], "letters, digits"),
        (["{name: '', type: Q4_K_M}"], "letters, digits"),
        ([f"{{name: {'x' * 90}-Q4_K_L, type: Q4_K_M}}"], "at most 64"),
        (["{name: large, type: Q4_K_M}"], "does not begin with one"),
        (["{name: Q4_K_L-imat, type: Q4_K_M}"], "does not begin with one"),
        (["{name: Q6_K, type: Q4_K_M}"], "Q6_K is a type of its own, and the file is Q4_K_M"),
        ([LARGE, "{name: q4_k_l, type: Q4_K_S}"], "two files called q4_k_l"),
        (["Q4_K_M", "{name: Q4_K_M, type: Q4_K_M, output_tensor: Q8_0}"], "two files called Q4_K_M"),
        (["{name: Q4_K_L, type: Q4_K_X}"], "unknown file type 'Q4_K_X'"),
        (["{name: Q4_K_L, type: Q4_K_M, output_tensor: Q4_K_M}"], "is a mix of tensor types"),
        (["{name: Q4_K_L, type: Q4_K_M, rules: [{match: '(', type: Q8_0}]}"], "is not a regular expression"),
        (["{name: Q3_K_L, type: Q3_K_HIFI}"], "Q3_K_L is a type of its own"),
        (["{name: Q3_K_XL, type: Q3_K_HIFI}"], "Q3_K_HIFI is not a type of llama.cpp"),
        (["{name: Q4_K_L}"], "types.0.type is missing"),
        (["Q8_0", "{name: Q4_K_L, type: Q4_K_M, pure: maybe}"], "types.1.pure must be true or false"),
        (["{name: Q4_K_L, typ: Q4_K_M}"], "unknown key quantize.types.0.typ"),
        (["{name: Q4_K_L, type: Q4_K_M, output_tenser: Q8_0}"], "unknown key quantize.types.0.output_tenser"),
    ],
)
def test_mistakes_are_told(types: list[str], what: str) -> None:
    with pytest.raises(HubquantError) as error:
        checked(*types)
    assert what in f"{error.value.what} {error.value.why}"
    assert error.value.hint

"""Types of a denoiser's tensors. What ComfyUI-GGUF and stable-diffusion.cpp choose is worked out by hand."""

from __future__ import annotations

import pytest

from hubquant.mix import FTYPES, assign
from hubquant.mix.file_types import BLOCK_SIZES
from hubquant.recipe.schema import Rule

Shapes = dict[str, tuple[int, ...]]
N = 256


def linear(*names: str, rows: int = N, columns: int = N) -> Shapes:
    return {
        f"{name}.{part}": shape for name in names for part, shape in (("weight", (rows, columns)), ("bias", (rows,)))
    }


def small_flux() -> Shapes:
    """Two blocks of two streams and two of one."""
    found = linear("img_in", "txt_in", "final_layer.linear", "final_layer.adaLN_modulation.1")
    for embedder in ("time_in", "vector_in", "guidance_in"):
        found |= linear(f"{embedder}.in_layer", f"{embedder}.out_layer")
    for block in (0, 1):
        for stream in ("img", "txt"):
            at = f"double_blocks.{block}.{stream}"
            found |= linear(f"{at}_attn.qkv", rows=3 * N) | linear(f"{at}_attn.proj")
            found |= linear(f"{at}_mod.lin", rows=6 * N) | linear(f"{at}_mlp.0", rows=4 * N)
            found |= linear(f"{at}_mlp.2", columns=4 * N)
            found |= {f"{at}_attn.norm.{part}_norm.scale": (128,) for part in ("query", "key")}
        at = f"single_blocks.{block}"
        found |= linear(f"{at}.linear1", rows=7 * N) | linear(f"{at}.linear2", columns=5 * N)
        found |= linear(f"{at}.modulation.lin", rows=3 * N)
        found |= {f"{at}.norm.{part}_norm.scale": (128,) for part in ("query", "key")}
    return found


def types(
    tensors: Shapes,
    ftype: str,
    architecture: str = "flux",
    *,
    pure: bool = False,
    float_type: str = "BF16",
    **rules: str,
) -> dict[str, str]:
    named = [Rule(match=match, type=type) for match, type in rules.items()]
    return assign(tensors, ftype, architecture, {}, has_imatrix=False, rules=named, pure=pure, float_type=float_type)


INPUTS_AND_OUTPUTS = ("img_in", "txt_in", "time_in", "vector_in", "guidance_in", "final_layer")


@pytest.mark.parametrize(
    ("ftype", "fused", "others"),
    [
        ("Q2_K", "Q2_K", "Q2_K"),
        ("Q3_K_S", "Q3_K", "Q3_K"),
        ("Q3_K_M", "Q4_K", "Q3_K"),
        ("Q3_K_L", "Q4_K", "Q3_K"),
        ("Q4_0", "Q4_0", "Q4_0"),
        ("Q4_K_S", "Q4_K", "Q4_K"),
        ("Q4_K_M", "Q5_K", "Q4_K"),
        ("Q5_K_S", "Q5_K", "Q5_K"),
        ("Q5_K_M", "Q6_K", "Q5_K"),
        ("Q6_K", "Q6_K", "Q6_K"),
        ("Q8_0", "Q8_0", "Q8_0"),
        ("BF16", "BF16", "BF16"),
        ("IQ3_M", "Q4_K", "IQ3_S"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_flux_has_the_mix_of_comfyui(ftype: str, fused: str, others: str, prefix: str) -> None:
    wanted = {}
    for name, shape in small_flux().items():
        if len(shape) == 1:
            wanted[prefix + name] = "F32"
        elif name.startswith(INPUTS_AND_OUTPUTS):
            wanted[prefix + name] = "BF16"
        else:
            wanted[prefix + name] = fused if name.endswith("_attn.qkv.weight") else others
    assert types({prefix + name: shape for name, shape in small_flux().items()}, ftype) == wanted


V, DOWN, OTHER = "attn1.to_v.weight", "ff_i.experts.0.w2.weight", "attn1.to_q.weight"


@pytest.mark.parametrize(
    ("ftype", "values", "down", "others"),
    [
        ("Q2_K", ["Q3_K"] * 12, "Q2_K", "Q2_K"),
        ("Q3_K_M", ["Q5_K"] * 2 + ["Q4_K"] * 10, "Q4_K", "Q3_K"),
        ("Q3_K_L", ["Q5_K"] * 12, "Q5_K", "Q3_K"),
        ("Q4_K_S", ["Q5_K"] * 4 + ["Q4_K"] * 8, "Q5_K", "Q4_K"),
        ("Q4_K_M", ["Q6_K"] * 12, "Q6_K", "Q4_K"),
        ("Q5_K_M", ["Q6_K"] * 12, "Q6_K", "Q5_K"),
        ("Q4_0", ["Q4_0"] * 12, "Q4_1", "Q4_0"),
        ("Q5_0", ["Q5_0"] * 12, "Q5_1", "Q5_0"),
        ("IQ4_XS", ["Q5_K"] * 4 + ["IQ4_XS"] * 8, "IQ4_XS", "IQ4_XS"),
        ("IQ3_XS", ["IQ3_S"] * 12, "IQ3_S", "IQ3_XXS"),
        ("IQ2_M", ["IQ3_S"] * 12, "IQ3_S", "IQ2_S"),
        ("IQ2_XXS", ["Q2_K"] * 12, "IQ2_XXS", "IQ2_XXS"),
    ],
)
def test_values_are_counted_block_by_block(ftype: str, values: list[str], down: str, others: str) -> None:
    blocks = [f"double_stream_blocks.{block}.block." for block in range(12)]
    found = types({block + part: (N, N) for block in blocks for part in (V, DOWN, OTHER)}, ftype, "hidream")
    assert [found[block + V] for block in blocks] == values
    assert {found[block + DOWN] for block in blocks} == {down}
    assert {found[block + OTHER] for block in blocks} == {others}


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("sd1", "input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"),
        ("aura", "double_layers.0.attn.w1v.weight"),
        ("aura", "double_layers.0.attn.w2v.weight"),
        ("wan", "blocks.0.cross_attn.v.weight"),
        ("cosmos", "blocks.0.self_attn.v_proj.weight"),
        ("qwen_image", "transformer_blocks.0.attn.add_v_proj.weight"),
        ("wan", "blocks.0.ffn.2.weight"),
        ("sdxl", "input_blocks.4.1.transformer_blocks.0.ff.net.2.weight"),
        ("cosmos", "blocks.0.mlp.layer2.weight"),
        ("cosmos", "blocks.0.adaln_modulation_mlp.2.weight"),
        ("lumina2", "layers.0.feed_forward.w2.weight"),
        ("qwen_image", "transformer_blocks.0.txt_mlp.net.2.weight"),
    ],
)
def test_what_values_and_second_matrices_are_called(architecture: str, name: str) -> None:
    assert types({name: (N, N)}, "Q4_K_M", architecture) == {name: "Q6_K"}


@pytest.mark.parametrize(
    ("architecture", "name"),
    [("sd3", "joint_blocks.0.x_block.attn.qkv.weight"), ("hyvid", "double_blocks.0.img_attn_qkv.weight")],
)
def test_what_fused_matrices_are_called(architecture: str, name: str) -> None:
    assert types({name: (N, N)}, "Q4_K_M", architecture) == {name: "Q5_K"}


@pytest.mark.parametrize("ftype", sorted(FTYPES.keys() - {"NVFP4", "Q1_0"}))
@pytest.mark.parametrize("architecture", ["flux", "qwen_image"])
def test_all_file_types_have_types_that_fit(ftype: str, architecture: str) -> None:
    tensors = {f"blocks.{n}.attn.{part}.weight": (N, n) for n in (256, 96, 50) for part in ("to_v", "to_q")}
    for pure in (False, True):
        found = types(tensors, ftype, architecture, pure=pure)
        assert all(shape[1] % BLOCK_SIZES[found[name]] == 0 for name, shape in tensors.items())
        assert found["blocks.50.attn.to_q.weight"] in ("F32", "F16", "BF16")


def test_what_is_no_linear_layer_stays_a_float_that_diffusers_reads() -> None:
    tensors = {
        "patch_embedding.weight": (N, 16, 1, 2, 2),
        "blocks.0.modulation": (1, 6, N),
        "blocks.0.norm3.weight": (N,),
        "blocks.0.self_attn.q.weight": (N, N),
        "text_embedding.0.weight": (N, N),
        "a_convolution.weight": (N, 16, 2, 2),
        "a_table": (8, N),
        "small.weight": (4, N, 1, 1),
    }
    assert types(tensors, "Q8_0", "wan") == dict(
        zip(tensors, ("F32", "F32", "F32", "Q8_0", "BF16", "F16", "F16", "F32"), strict=True)
    )
    assert types(tensors, "BF16", "wan") == types(tensors, "Q8_0", "wan") | {"blocks.0.self_attn.q.weight": "BF16"}
    assert set(types(tensors, "F32", "wan").values()) == {"F32"}


def test_rows_that_blocks_do_not_divide_have_the_next_type_that_fits() -> None:
    tensors = {"a.weight": (N, 96), "b.weight": (N, 100)}
    assert types(tensors, "Q4_K_M") == {"a.weight": "Q5_0", "b.weight": "F16"}
    assert types(tensors, "Q4_K_M", pure=True) == {"a.weight": "BF16", "b.weight": "BF16"}


def test_rules_come_before_the_mix_and_reach_what_it_reaches() -> None:
    name, bias = "double_layers.0.modX.1.weight", "double_layers.0.modX.1.bias"
    tensors = {name: (N, N), bias: (N,), "modF.1.weight": (N, N)}
    wanted = {name: "Q8_0", bias: "F32", "modF.1.weight": "BF16"}
    assert types(tensors, "Q4_K_M", "aura", **{"modX|modF": "Q8_0"}) == wanted


def test_pure_has_one_type_and_what_stable_diffusion_cpp_keeps() -> None:
    found = types(small_flux(), "Q4_K_M", pure=True, linear2="Q8_0")
    wanted = {}
    for name, shape in small_flux().items():
        if len(shape) == 1:
            wanted[name] = "F32"
        elif name.startswith(INPUTS_AND_OUTPUTS):
            wanted[name] = "BF16"
        else:
            wanted[name] = "Q8_0" if "linear2" in name else "Q4_K"
    assert found == wanted
    wan = {"head.head.weight": (N, N), "text_embedding.0.weight": (N, N), "blocks.0.modulation": (1, 6, N)}
    assert [*types(wan, "Q8_0", "wan", pure=True).values()] == ["Q8_0", "BF16", "F32"]

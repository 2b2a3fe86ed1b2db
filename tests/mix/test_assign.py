from __future__ import annotations

import math

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubquant.errors import MixError, NotSupportedYet, UserError
from hubquant.mix import FTYPES, assign, file_type, requires_imatrix
from hubquant.mix.file_types import BLOCK_SIZES
from hubquant.recipe.schema import Rule
from tests.support.tensor_lists import Shapes, attention, dense, embeddings, experts, feed_forward

LLAMA_8B = {"n_embd": 4096, "n_ff": 14336, "n_vocab": 128256, "n_layer": 32, "n_head": 32, "n_head_kv": 8}
SMALL = {"n_embd": 256, "n_ff": 512, "n_vocab": 384, "n_layer": 16, "n_head": 4, "n_head_kv": 2}

# Bits per weight of Llama-3.1-8B as llama.cpp's documentation lists them.
BITS_PER_WEIGHT = {
    "IQ1_S": 2.0042,
    "IQ1_M": 2.1460,
    "IQ2_XXS": 2.3824,
    "IQ2_XS": 2.5882,
    "IQ2_S": 2.7403,
    "IQ2_M": 2.9294,
    "Q2_K_S": 2.9697,
    "Q2_K": 3.1593,
    "IQ3_XXS": 3.2548,
    "IQ3_XS": 3.4977,
    "Q3_K_S": 3.6429,
    "IQ3_S": 3.6606,
    "IQ3_M": 3.7628,
    "Q3_K_M": 3.9960,
    "Q3_K_L": 4.2979,
    "IQ4_XS": 4.4597,
    "Q4_K_S": 4.6672,
    "IQ4_NL": 4.6818,
    "Q4_K_M": 4.8944,
    "Q5_K_S": 5.5704,
    "Q5_K_M": 5.7036,
    "Q6_K": 6.5633,
    "Q8_0": 8.5008,
}
# An importance matrix makes these two and IQ3_XXS smaller: the list has IQ3_XXS with a matrix, these without.
LISTED_WITHOUT_IMATRIX = ("IQ4_XS", "IQ4_NL")


@pytest.mark.parametrize("ftype", BITS_PER_WEIGHT)
def test_bits_per_weight_of_llama_8b(ftype: str) -> None:
    tensors = dense(**LLAMA_8B, head_dim=128) | {"rope_freqs.weight": (64,)}
    types = assign(tensors, ftype, "llama", LLAMA_8B, has_imatrix=ftype not in LISTED_WITHOUT_IMATRIX)
    n_weights = sum(math.prod(shape) for shape in tensors.values())
    n_bytes = sum(math.prod(shape) * bytes_per_weight(types[name]) for name, shape in tensors.items())
    assert n_weights == 8_030_261_312
    assert round(8 * n_bytes / n_weights, 4) == BITS_PER_WEIGHT[ftype]


def bytes_per_weight(type: str) -> float:
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type]]
    return block_bytes / block_size


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    sizes = {type.name: size for type, (size, _) in gguf.GGML_QUANT_SIZES.items()}
    assert {name: sizes.get(name, size) for name, size in BLOCK_SIZES.items()} == dict(BLOCK_SIZES)


def test_file_type_ids_are_those_of_the_gguf_package() -> None:
    ids = {type.name.removeprefix("MOSTLY_").removeprefix("ALL_"): type.value for type in gguf.LlamaFileType}
    assert {name: ids.get(name, f.id) for name, f in FTYPES.items()} == {name: f.id for name, f in FTYPES.items()}


def assign_small(ftype: str, **options: object) -> dict[str, str]:
    tensors = dense(**SMALL, head_dim=64)
    return assign(tensors, ftype, "llama", SMALL, has_imatrix=True, **options)  # type: ignore[arg-type]


def test_the_order_of_the_tensors_given_does_not_matter() -> None:
    tensors = dense(**SMALL, head_dim=64)
    backwards = dict(reversed(tensors.items()))
    for ftype in ("Q4_K_M", "Q3_K_M", "IQ2_M"):
        types = assign(backwards, ftype, "llama", SMALL, has_imatrix=False)
        assert list(types) == list(backwards)
        assert types == assign(tensors, ftype, "llama", SMALL, has_imatrix=False)


def test_blocks_count_in_byte_order_of_their_number() -> None:
    types = assign_small("Q4_K_S")
    assert [layer for layer in range(16) if types[f"blk.{layer}.attn_v.weight"] == "Q5_K"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("ftype", "tensor", "without", "with_imatrix"),
    [
        ("Q4_0", "blk.1.ffn_down.weight", "Q4_0", "Q4_1"),
        ("Q5_0", "blk.1.ffn_down.weight", "Q5_0", "Q5_1"),
        ("IQ4_XS", "blk.1.ffn_down.weight", "Q5_K", "IQ4_XS"),
        ("IQ3_XXS", "blk.1.ffn_down.weight", "Q4_K", "IQ3_XXS"),
        ("IQ3_XXS", "blk.15.ffn_down.weight", "Q3_K", "IQ3_XXS"),
        ("IQ3_XXS", "blk.1.attn_v.weight", "IQ3_S", "IQ3_XXS"),
    ],
)
def test_rules_that_depend_on_the_imatrix(ftype: str, tensor: str, without: str, with_imatrix: str) -> None:
    tensors = dense(**SMALL, head_dim=64)
    assert assign(tensors, ftype, "llama", SMALL, has_imatrix=False)[tensor] == without
    assert assign(tensors, ftype, "llama", SMALL, has_imatrix=True)[tensor] == with_imatrix


def test_eight_experts() -> None:
    """Mixtral: attention costs next to nothing beside eight experts."""
    tensors = embeddings(256, 384)
    for layer in range(8):
        tensors |= attention(layer, 256, 4, 2, 64) | experts(layer, 256, 512, 8)
    hparams = {"n_layer": 8, "n_head": 4, "n_head_kv": 2, "n_expert": 8}
    q4, iq2 = (assign(tensors, ftype, "llama", hparams, has_imatrix=True) for ftype in ("Q4_K_M", "IQ2_XS"))
    roles = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp")
    assert [q4[f"blk.1.{role}.weight"] for role in roles] == ["Q4_K", "Q8_0", "Q8_0", "Q5_K", "F32"]
    assert [iq2[f"blk.1.{role}.weight"] for role in roles] == ["IQ2_XS", "Q4_K", "Q4_K", "Q5_K", "F32"]
    assert [layer for layer in range(8) if q4[f"blk.{layer}.ffn_down_exps.weight"] == "Q6_K"] == [0, 3, 6, 7]


def test_the_70b_rule() -> None:
    hparams = SMALL | {"n_layer": 80}
    tensors = dense(**hparams, head_dim=64)
    assert assign(tensors, "Q3_K_S", "llama", hparams, has_imatrix=False)["blk.9.attn_v.weight"] == "Q5_K"
    assert assign(tensors, "Q3_K_S", "qwen3", hparams, has_imatrix=False)["blk.9.attn_v.weight"] == "Q3_K"


def test_falcon() -> None:
    tensors = embeddings(256, 384)
    for layer in range(32):
        tensors |= {f"blk.{layer}.attn_qkv.weight": (384, 256), f"blk.{layer}.attn_output.weight": (256, 256)}
        tensors |= feed_forward(layer, 256, 512)
    hparams = {"n_layer": 32, "n_head": 4, "n_head_kv": 1}
    types = assign(tensors, "Q4_K_M", "falcon", hparams, has_imatrix=False)
    assert types["output.weight"] == "Q8_0"
    assert [types[f"blk.{i}.ffn_down.weight"] for i in range(7)] == ["Q6_K"] * 2 + ["Q5_K"] * 2 + [
        "Q4_K",
        "Q4_K",
        "Q5_K",
    ]
    assert [types[f"blk.{i}.attn_qkv.weight"] for i in range(7)] == ["Q6_K"] * 4 + ["Q4_K", "Q4_K", "Q6_K"]


def test_the_first_matching_rule_decides_and_does_not_count() -> None:
    rules = (Rule(match=r"BLK\.[01]\.ffn_down", type="q8_0"), Rule(match="ffn_down", type="Q5_0"))
    types = assign_small("Q4_K_M", rules=rules)
    assert types["blk.1.ffn_down.weight"] == "Q8_0"
    assert types["blk.2.ffn_down.weight"] == "Q5_0"
    # attn_v of blk.0 set by hand: the counter of the others starts at blk.1.
    types = assign_small("Q4_K_S", rules=(Rule(match=r"blk\.0\.attn_v", type="Q4_K"),))
    assert [layer for layer in range(16) if types[f"blk.{layer}.attn_v.weight"] == "Q5_K"] == [1, 2, 3, 4]


def test_pure_and_overrides() -> None:
    types = assign_small("Q4_K_M", pure=True, output_tensor="Q8_0", rules=(Rule(match="attn_k", type="Q6_K"),))
    assert types["output.weight"] == "Q8_0"
    assert types["blk.0.attn_k.weight"] == "Q6_K"
    others = {name for name in types if types[name] not in ("F32", "Q4_K")}
    assert others == {"output.weight"} | {f"blk.{layer}.attn_k.weight" for layer in range(16)}
    assert assign_small("Q4_K_M", token_embedding="F16")["token_embd.weight"] == "F16"


def test_tied_embeddings_are_the_output() -> None:
    tensors = dense(**SMALL, head_dim=64, tied=True)
    assert assign(tensors, "Q2_K", "llama", SMALL, has_imatrix=True)["token_embd.weight"] == "Q6_K"
    both = assign(tensors, "Q2_K", "llama", SMALL, has_imatrix=True, output_tensor="Q5_K", token_embedding="Q3_K")
    assert both["token_embd.weight"] == "Q3_K"
    output_only = assign(tensors, "Q2_K", "llama", SMALL, has_imatrix=True, output_tensor="Q5_K")
    assert output_only["token_embd.weight"] == "Q5_K"


@pytest.mark.parametrize("ftype", ["F32", "F16", "BF16"])
def test_float_files_keep_vectors_in_f32(ftype: str) -> None:
    types = assign_small(ftype, rules=(Rule(match=".", type="Q4_K"),))
    assert {types[name] for name in types if "norm" in name} == {"F32"}
    assert {types[name] for name in types if "norm" not in name} == {ftype}


def test_what_llama_cpp_reads_as_float_stays_f32_in_float_files() -> None:
    names = ("proj", "k_proj", "q_proj")
    indexer: Shapes = {f"blk.0.indexer.{name}.weight": (4, 256) for name in names}
    assert assign(indexer, "F16", "minimax-m3", SMALL, has_imatrix=False) == dict.fromkeys(indexer, "F32")


def test_unquantized_tensors() -> None:
    tensors: Shapes = {
        "output.weight": (384, 256),
        "rope_freqs.weight": (32,),
        "blk.0.attn_q.bias": (256,),
        "blk.0.attn_q_norm.weight": (4, 64),
        "blk.0.ffn_gate_inp.weight": (8, 256),
        "blk.0.ffn_gate_inp_shexp.weight": (1, 256),
        "blk.0.ssm_conv1d.weight": (512, 4),
        "blk.0.time_mix_w1.weight": (160, 256),
        "blk.0.time_mix_v2.weight": (256, 32),
        "per_layer_model_proj.weight": (256, 256),
    }
    types = assign(tensors, "Q4_K_M", "x", {"n_layer": 1}, has_imatrix=False, float_type="BF16")
    bf16 = ("blk.0.time_mix_v2.weight", "per_layer_model_proj.weight")
    assert types == dict.fromkeys(tensors, "F32") | dict.fromkeys(bf16, "BF16") | {"output.weight": "Q6_K"}


@pytest.mark.parametrize(
    ("ftype", "n_in", "type"),
    [
        ("Q2_K", 96, "Q4_0"),
        ("Q4_K_S", 96, "Q5_0"),
        ("Q5_K_S", 96, "Q5_1"),
        ("Q6_K", 96, "Q8_0"),
        ("IQ2_XS", 96, "IQ4_NL"),
        ("Q2_0", 96, "Q4_0"),
        ("Q4_K_S", 100, "F16"),
    ],
)
def test_shape_fallback(ftype: str, n_in: int, type: str) -> None:
    tensors: Shapes = {"output.weight": (384, 256), "blk.0.attn_q.weight": (64, n_in)}
    assert assign(tensors, ftype, "llama", {"n_layer": 1}, has_imatrix=True)["blk.0.attn_q.weight"] == type


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ftype": "Q4_K_X"}, "did you mean Q4_K_"),
        ({"rules": (Rule(match="(", type="Q4_K"),)}, "not a regular expression"),
        ({"rules": (Rule(match="x", type="Q5K"),)}, "did you mean Q5_K"),
        ({"rules": (Rule(match="x", type="Q4_K_M"),)}, "write Q4_K"),
        ({"output_tensor": "q7_k"}, "unknown tensor type 'q7_k'"),
        ({"token_embedding": "Q9"}, "unknown tensor type 'Q9'"),
        ({"rules": (Rule(match="attn_q", type="Q8_0"),)}, "rows have 100 weights"),
        ({"rules": (Rule(match="attn_q", type="MXFP4"),)}, "rows have 100 weights"),
    ],
)
def test_mistakes_are_explained(options: dict[str, object], words: str) -> None:
    tensors: Shapes = {"output.weight": (384, 256), "blk.0.attn_q.weight": (64, 100)}
    arguments: dict[str, object] = {"ftype": "Q4_K_M", "has_imatrix": True} | options
    with pytest.raises(MixError) as caught:
        assign(tensors, architecture="llama", hparams={"n_layer": 1}, **arguments)  # type: ignore[arg-type]
    assert words in f"{caught.value} {caught.value.hint}"
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize("ftype", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4_MOE", "Q4_K_M", "IQ4_XS"])
@pytest.mark.parametrize("pure", [False, True])
def test_rows_that_no_block_fits_are_f16(ftype: str, pure: bool) -> None:
    tensors: Shapes = {"token_embd.weight": (64, 256), "blk.0.ssm_dt.weight": (64, 20), "blk.0.ssm_x.weight": (20, 64)}
    types = assign(tensors, ftype, "jamba", {"n_layer": 1}, has_imatrix=True, pure=pure)
    assert types["blk.0.ssm_dt.weight"] == "F16"
    assert "F16" not in (types["token_embd.weight"], types["blk.0.ssm_x.weight"])


def test_nvfp4_files_are_not_made() -> None:
    with pytest.raises(NotSupportedYet):
        assign_small("NVFP4")


def test_short_names() -> None:
    assert [file_type(name).name for name in ("q4_k", "Q3_K", "iq2_xs")] == ["Q4_K_M", "Q3_K_M", "IQ2_XS"]


def test_requires_imatrix() -> None:
    assert requires_imatrix("blk.0.attn_q.weight", "IQ2_XS", "IQ2_XS")
    assert not requires_imatrix("token_embd.weight", "IQ2_XS", "IQ2_XS")
    assert requires_imatrix("blk.0.attn_q.weight", "Q2_K", "Q2_K_S")
    assert not requires_imatrix("blk.0.attn_q.weight", "Q2_K", "Q2_K")
    assert not requires_imatrix("blk.0.attn_q.weight", "IQ3_S", "IQ3_S")


@settings(max_examples=60)
@given(
    ftype=st.sampled_from(sorted(set(FTYPES) - {"NVFP4"})),
    n_layer=st.integers(1, 40),
    n_embd=st.sampled_from([32, 64, 96, 256, 2048]),
    tied=st.booleans(),
    has_imatrix=st.booleans(),
    architecture=st.sampled_from(["llama", "falcon", "qwen3"]),
)
def test_every_tensor_can_hold_its_type(
    ftype: str, n_layer: int, n_embd: int, tied: bool, has_imatrix: bool, architecture: str
) -> None:
    hparams = {"n_embd": n_embd, "n_ff": 2 * n_embd, "n_vocab": 64, "n_layer": n_layer, "n_head": 8, "n_head_kv": 2}
    tensors = dense(**hparams, head_dim=32, tied=tied)
    if ftype == "Q1_0" and n_embd % 128:
        with pytest.raises(MixError, match="its rows have"):
            assign(tensors, ftype, architecture, hparams, has_imatrix)
        return
    types = assign(tensors, ftype, architecture, hparams, has_imatrix)
    assert list(types) == list(tensors)
    assert all(tensors[name][-1] % BLOCK_SIZES[type] == 0 for name, type in types.items())


def test_q3_k_hifi_takes_the_place_of_q3_k_in_q3_k_s() -> None:
    for hparams in (SMALL, SMALL | {"n_expert": 8}, SMALL | {"n_layer": 80}):
        tensors = dense(**SMALL, head_dim=64) | {"blk.3.ffn_up_exps.weight": (8, 64, 96)}
        stock = assign(tensors, "Q3_K_S", "llama", hparams, has_imatrix=True)
        fork = assign(tensors, "q3_k_hifi", "llama", hparams, has_imatrix=True)
        assert "Q3_K" in stock.values()
        assert fork == {name: "Q3_K_HIFI" if type == "Q3_K" else type for name, type in stock.items()}

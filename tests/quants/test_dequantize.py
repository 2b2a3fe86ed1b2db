from ctypes import c_char_p

import gguf
import numpy as np
import pytest
import torch

from hubquant.quants import FORK_TYPES, TYPES, dequantize
from hubquant.quants.formats import lookup
from hubquant.quants.layout import members
from hubquant.quants.traits import TRAITS
from tests.support.llamacpp import ggml_dequantize, library

ROWS, N = 33, 1024
DECODED = [name for name, traits in TRAITS.items() if traits.decoder]
IN_GGML = [name for name in DECODED if name not in ("Q8_1", "Q8_K", *FORK_TYPES)]
IN_GGUF = [kind.name for kind in gguf.quants._type_traits if kind.name in DECODED]
IN_TORCH = [name for name in DECODED if TRAITS[name].values]


def any_bytes(name: str) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (ROWS, lookup(name).row_bytes(N)), dtype=np.uint8)


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    """The sign and payload of NaN are left to the processor and the compiler."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    is_number = ~np.isnan(expected)
    np.testing.assert_array_equal(found.view(np.int32)[is_number], expected.view(np.int32)[is_number])


def values(name: str) -> np.ndarray:
    return dequantize(torch.from_numpy(any_bytes(name)), name, N).numpy()


def test_all_types_are_compared() -> None:
    assert set(DECODED) == {name for name, fmt in (TYPES | FORK_TYPES).items() if fmt.block_size > 1}
    assert set(IN_GGML) - set(IN_GGUF) <= {"Q1_0", "Q2_0"}


@pytest.mark.parametrize("name", IN_GGML)
def test_any_bytes_give_ggmls_values(name: str) -> None:
    lib = library()
    lib.ggml_type_name.restype = c_char_p
    c_name = lib.ggml_type_name(TYPES[name].id).decode()
    assert_same_bits(values(name), ggml_dequantize(any_bytes(name), c_name, ROWS * N).reshape(ROWS, N))


@pytest.mark.filterwarnings("ignore:(invalid value|overflow)")
@pytest.mark.parametrize("name", IN_GGUF)
def test_any_bytes_give_the_values_of_the_gguf_package(name: str) -> None:
    expected = gguf.quants.dequantize(any_bytes(name), gguf.GGMLQuantizationType[name])
    assert_same_bits(values(name), np.asarray(expected, np.float32))


@pytest.mark.parametrize("name", IN_TORCH)
def test_other_devices_get_the_same_values(name: str) -> None:
    blocks = torch.from_numpy(any_bytes(name)).view(-1, lookup(name).block_bytes)
    decode = TRAITS[name].values
    assert decode is not None
    assert_same_bits(values(name), decode(members(blocks, lookup(name))).view(ROWS, N).numpy())


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int32]
)
def test_plain_types(dtype: torch.dtype) -> None:
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int8": "I8", "int32": "I32"}
    x = torch.randint(-100, 100, (5, 7)).to(dtype)
    name = names[str(dtype).removeprefix("torch.")]
    torch.testing.assert_close(dequantize(x.view(torch.uint8), name, 7), x.float(), rtol=0, atol=0)


def test_long_matrices_are_cut_into_chunks_of_rows() -> None:
    n = 1 << 16
    data = torch.randint(0, 256, (40, TYPES["Q8_0"].row_bytes(n)), dtype=torch.uint8)
    data[:, 1::34] = 0x2C  # finite scales
    whole = dequantize(data, "Q8_0", n)
    parts = torch.cat([dequantize(row, "Q8_0", n) for row in data.split(1)])
    torch.testing.assert_close(whole, parts, rtol=0, atol=0)


def test_rows_that_are_apart() -> None:
    data = torch.from_numpy(any_bytes("Q4_0"))
    assert_same_bits(dequantize(data[::3], "Q4_0", N).numpy(), values("Q4_0")[::3])


def test_no_rows() -> None:
    assert dequantize(torch.empty(0, 18, dtype=torch.uint8), "Q4_0", 32).shape == (0, 32)


def test_wrong_bytes() -> None:
    with pytest.raises(ValueError, match=r"uint8 \[rows, 18\]"):
        dequantize(torch.zeros(2, 17, dtype=torch.uint8), "Q4_0", 32)
    with pytest.raises(ValueError, match=r"uint8 \[rows, 18\]"):
        dequantize(torch.zeros(2, 18), "Q4_0", 32)
    with pytest.raises(ValueError, match="multiple of 32"):
        dequantize(torch.zeros(2, 18, dtype=torch.uint8), "Q4_0", 31)

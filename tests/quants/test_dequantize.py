from ctypes import c_char_p

import numpy as np
import pytest
import torch

from hubquant.quants import TYPES, dequantize
from tests.support.llamacpp import ggml_dequantize, library

PACKED = [name for name, fmt in TYPES.items() if fmt.block_size > 1 and name not in ("Q8_1", "Q8_K")]


@pytest.mark.filterwarnings("ignore:(invalid value|overflow)")
@pytest.mark.parametrize("name", PACKED)
def test_any_bytes_give_ggmls_values(name: str) -> None:
    rows, n = 33, 1024
    fmt, lib = TYPES[name], library()
    data = np.random.default_rng(0).integers(0, 256, (rows, fmt.row_bytes(n)), dtype=np.uint8)
    lib.ggml_type_name.restype = c_char_p
    expected = ggml_dequantize(data, lib.ggml_type_name(fmt.id).decode(), rows * n).reshape(rows, n)
    np.testing.assert_array_equal(dequantize(torch.from_numpy(data), name, n).numpy(), expected)


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


def test_no_rows() -> None:
    assert dequantize(torch.empty(0, 18, dtype=torch.uint8), "Q4_0", 32).shape == (0, 32)


def test_wrong_bytes() -> None:
    with pytest.raises(ValueError, match=r"uint8 \[rows, 18\]"):
        dequantize(torch.zeros(2, 17, dtype=torch.uint8), "Q4_0", 32)
    with pytest.raises(ValueError, match=r"uint8 \[rows, 18\]"):
        dequantize(torch.zeros(2, 18), "Q4_0", 32)
    with pytest.raises(ValueError, match="multiple of 32"):
        dequantize(torch.zeros(2, 18, dtype=torch.uint8), "Q4_0", 31)

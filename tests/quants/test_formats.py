from ctypes import c_char_p, c_int64, c_size_t

import gguf
import pytest

from hubquant.quants import TYPES
from hubquant.quants.formats import Bits, lookup
from tests.support.llamacpp import library


@pytest.mark.parametrize("name", TYPES)
def test_sizes_are_those_of_llama_cpp(name: str) -> None:
    lib = library()
    lib.ggml_type_name.restype, lib.ggml_blck_size.restype, lib.ggml_type_size.restype = c_char_p, c_int64, c_size_t
    fmt = TYPES[name]
    assert lib.ggml_type_name(fmt.id).decode().upper() == name
    assert (lib.ggml_blck_size(fmt.id), lib.ggml_type_size(fmt.id)) == (fmt.block_size, fmt.block_bytes)


def test_every_type_of_the_gguf_package_is_here() -> None:
    ids = {kind.name: kind.value for kind in gguf.GGMLQuantizationType}
    assert ids.items() <= {name: fmt.id for name, fmt in TYPES.items()}.items()


def test_bit_planes_of_a_type_cover_disjoint_bits() -> None:
    for fmt in TYPES.values():
        taken = [bit for f in fmt.fields if isinstance(f, Bits) for bit in range(f.shift, f.shift + f.bits)]
        assert sorted(taken) == list(range(len(taken))), fmt.name


def test_row_bytes() -> None:
    assert TYPES["Q4_K"].row_bytes(512) == 288
    assert TYPES["Q4_K"].bits_per_weight == 4.5
    for n in (0, 100, -256):
        with pytest.raises(ValueError, match="multiple of 256"):
            TYPES["Q4_K"].row_bytes(n)


def test_unknown_type_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown tensor type 'Q4_X'.*Q4_K"):
        lookup("Q4_X")

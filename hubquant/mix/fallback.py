"""What a tensor becomes whose rows the blocks of a type do not divide, as in llama.cpp."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hubquant.errors import MixError
from hubquant.mix.file_types import BLOCK_SIZES, FLOAT_TYPES

Shape = tuple[int, ...]

SHAPE_FALLBACK: Mapping[str, str] = (
    dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL")
    | dict.fromkeys(("Q2_K", "Q3_K", "Q3_K_HIFI", "TQ1_0", "TQ2_0", "Q2_0"), "Q4_0")
    | {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
)
LAST_RESORT = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4")  # blocks of 32


def fallback(name: str, shape: Shape, type: str, last_resort: Collection[str] = ()) -> str:
    """``type``, or where its blocks do not divide a row the type that llama.cpp takes instead.

    That is F16 where blocks of 32 do not, also in place of types of ``last_resort``.
    """
    n_in = shape[-1]
    if fits(shape, type):
        return type
    if type in last_resort:
        return "F16"
    if type not in SHAPE_FALLBACK:
        return fitting(name, shape, type)
    other = SHAPE_FALLBACK[type]
    return other if n_in % BLOCK_SIZES[other] == 0 else "F16"


def fits(shape: Shape, type: str) -> bool:
    return shape[-1] % BLOCK_SIZES[type] == 0


def fitting(name: str, shape: Shape, type: str) -> str:
    n_in, block = shape[-1], BLOCK_SIZES[type]
    if n_in % block:
        others = [other for other, size in BLOCK_SIZES.items() if other not in FLOAT_TYPES and n_in % size == 0]
        raise MixError(
            f"{name} cannot be {type}",
            why=f"its rows have {n_in} weights, not a multiple of {block}",
            hint=f"give it one of {', '.join(['F16', *others])} with a rule, or choose another file type",
        )
    return type

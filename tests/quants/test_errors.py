import pytest
import torch

from hubquant.quants import FORK_TYPES, TYPES, implemented, needs_importance, quantize
from hubquant.quants.traits import TRAITS


@pytest.mark.parametrize("type", ["F16", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_weights_name_the_row(type: str, value: float) -> None:
    x = torch.zeros(600, 512)
    x[577, 3] = value
    with pytest.raises(ValueError, match="row 577 holds NaN or infinity"):
        quantize(x, type, threads=2)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_importance_must_be_finite_and_not_negative(value: float) -> None:
    importance = torch.ones(256)
    importance[7] = value
    with pytest.raises(ValueError, match="negative or non-finite"):
        quantize(torch.zeros(1, 256), "Q4_K", importance)


def test_shapes() -> None:
    with pytest.raises(ValueError, match="multiple of 256"):
        quantize(torch.zeros(2, 128), "Q4_K")
    with pytest.raises(ValueError, match="float matrix"):
        quantize(torch.zeros(256), "Q4_K")
    with pytest.raises(ValueError, match="float matrix"):
        quantize(torch.zeros(1, 256, dtype=torch.int32), "Q4_K")
    with pytest.raises(ValueError, match="each of 256 columns"):
        quantize(torch.zeros(1, 256), "Q4_K", torch.ones(128))


def test_types_without_quantizer() -> None:
    with pytest.raises(ValueError, match="unknown tensor type"):
        quantize(torch.zeros(1, 256), "Q4_X")
    with pytest.raises(ValueError, match="I8 cannot be written"):
        quantize(torch.zeros(1, 256), "I8")
    assert not implemented("I8")
    assert not implemented("Q4_X")
    with pytest.raises(ValueError, match="I8 cannot be written"):
        needs_importance("I8")


def test_modes() -> None:
    with pytest.raises(ValueError, match="unknown mode 'fast': known modes are exact, best"):
        quantize(torch.zeros(1, 256), "Q4_K", mode="fast")  # type: ignore[arg-type]


def test_every_type_has_a_row_and_is_written_in_both_modes_or_in_none() -> None:
    assert TRAITS.keys() == {**TYPES, **FORK_TYPES}.keys()
    for name, traits in TRAITS.items():
        assert (traits.exact is None) == (traits.best is None), name
        if traits.exact and traits.best:
            assert (traits.exact.plain is None) == (traits.best.plain is None), name


@pytest.mark.parametrize("type", ["IQ1_S", "IQ2_XXS", "IQ2_XS"])
def test_types_that_need_importance_say_so(type: str) -> None:
    with pytest.raises(ValueError, match=f"{type} needs importance"):
        quantize(torch.ones(1, 256), type)

"""A divergence that no rounding explains."""

from __future__ import annotations

import pytest
import torch

from hubquant.errors import EvaluationError
from hubquant.evaluate import Divergence, Perplexity, check_plausible, summarize, token_statistics
from hubquant.evaluate.plausible import fewest_bits
from tests.support.measured import divergence

STOCK = {  # llama.cpp's files of Llama-3-8B without importance, tools/perplexity/README.md
    "Q8_0": 0.001355,
    "Q6_K": 0.005452,
    "Q5_0": 0.022239,
    "Q4_K": 0.043136,
    "Q4_0": 0.071940,
    "Q3_K": 0.228217,
    "Q2_K": 0.445132,
    "IQ1_S": 2.2546,
}


@pytest.mark.parametrize("type", STOCK)
def test_what_types_have_shown_is_plausible_and_ten_times_as_much(type: str) -> None:
    for factor in (1, 10):
        check_plausible("m.gguf", fewest_bits(["F32", type]), divergence(factor * STOCK[type]))


@pytest.mark.parametrize(("types", "kld"), [(["Q8_0"], 4), (["F16"], 3), (["F32", "Q6_K"], 7), (["Q4_K", "Q6_K"], 14)])
def test_what_no_rounding_explains_names_the_causes(types: list[str], kld: float) -> None:
    with pytest.raises(EvaluationError, match="does not predict what the source model does") as caught:
        check_plausible("m.gguf", fewest_bits(types), divergence(kld))
    for cause in ("calibrated", "conversion", "tokenizer"):
        assert cause in str(caught.value)
    assert caught.value.hint


def test_a_type_of_few_bits_may_lose_everything() -> None:
    check_plausible("m.gguf", fewest_bits(["F32", "Q6_K", "IQ1_S"]), divergence(20))
    check_plausible("m.gguf", fewest_bits(["TQ2_0"]), divergence(20))


def against(logits: torch.Tensor, base: torch.Tensor) -> Divergence:
    log_p, targets = base.double().log_softmax(1), torch.zeros(len(base), dtype=torch.long)
    nll = -log_p.gather(1, targets[:, None]).squeeze(1)
    return summarize([token_statistics(logits, log_p.float(), nll.float(), log_p.argmax(1), targets)], base.shape[1])


def test_other_weights_are_found_and_random_models_are_left_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    sharp, other = (6 * torch.randn(300, 2000, generator=generator) for _ in range(2))
    with pytest.raises(EvaluationError):
        check_plausible("m.gguf", fewest_bits(["Q8_0"]), against(other, sharp))
    flat, noise = (0.5 * torch.randn(300, 2000, generator=generator) for _ in range(2))
    check_plausible(
        "m.gguf", fewest_bits(["Q8_0"]), against(flat + noise, flat)
    )  # as far from it as the uniform prediction


def test_a_text_without_probability_is_an_error_and_no_infinite_perplexity() -> None:
    with pytest.raises(EvaluationError, match="no probability"):
        Perplexity.of(torch.full((20,), 1000.0))

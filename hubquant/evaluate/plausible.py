"""A divergence that no quantization explains: the file is not what the source is.

The measure is what knowing nothing costs: the mean KL divergence of the uniform prediction, ln(vocabulary) − mean
entropy of the source, 8 to 10 nats for a language model. Of llama.cpp's files of Llama-3-8B (mean KLD 0.0014 at Q8_0,
0.0055 at Q6_K, 0.022 at Q5_0, 0.072 at Q4_0) none has more than 0.01 of that. Random weights lose far more: of the
tests' tiny models (Llama, Qwen3, Phi-3, Mixtral, Mamba) the largest shares are 0.033 at Q8_0, 0.24 at Q6_K, 0.52 at
Q5_0 and 1.2 at Q4_0. ``SHARES`` are above these, and below what other weights, a wrong conversion or a broken tokenizer
cost, which is more than knowing nothing. Below four bits a file may have lost everything.
"""

from __future__ import annotations

from collections.abc import Iterable

from hubquant.errors import EvaluationError
from hubquant.evaluate.divergence import Divergence
from hubquant.quants.formats import lookup

SHARES = ((8.0, 0.25), (6.0, 0.75), (5.0, 1.0), (4.0, 1.6))
"""From so many bits per weight on: the share of the uniform prediction's divergence that a mean KLD may have."""
ALWAYS_PLAUSIBLE = 0.5  # nats


def fewest_bits(types: Iterable[str]) -> float:
    """Of a weight in tensors of these types."""
    return min(lookup(type).bits_per_weight for type in types)


def largest_plausible_kld(bits: float, measured: Divergence) -> float | None:
    """In nats, for a file whose tensors have at least so many bits per weight; None where any divergence may be."""
    share = next((share for least, share in SHARES if bits >= least), None)
    return None if share is None else max(ALWAYS_PLAUSIBLE, share * measured.uniform_kld)


def check_plausible(name: str, bits: float, measured: Divergence) -> None:
    """Raises ``EvaluationError`` when the file called ``name`` cannot be the source with such rounding."""
    limit = largest_plausible_kld(bits, measured)
    if limit is None or measured.kld.mean <= limit:
        return
    raise EvaluationError(
        f"{name} does not predict what the source model does: its mean KL divergence is {measured.kld.mean:.3g}",
        why=f"rounding to its types explains no more than {limit:.2g}; either its weights are not those that were "
        "calibrated, or their conversion is wrong, or the tokenizer does not belong to them",
        hint="check that weights, config and tokenizer are of one model, and add --fresh to make everything again; "
        "if it stays so, report it with the name of the model",
    )

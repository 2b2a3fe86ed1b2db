"""A card with a value in every field, to try a template on."""

from __future__ import annotations

import torch

from hubquant.evaluate import Divergence, summarize
from hubquant.evaluate.divergence import TokenStatistics
from hubquant.llamacpp.runtime import RuntimeCheck
from hubquant.publish.card import Card, CardText, EarlierFile
from hubquant.publish.recommendation import MeasuredFile
from hubquant.publish.usage import Usage

N_TOKENS = 5000


def example_card(*, measured: bool) -> Card:
    """With measurements or without."""
    sizes = {"Q8_0": 8.5, "Q4_K_M": 4.85}
    files = [_file(type, bits, measured) for type, bits in sizes.items()]
    text = (CardText("org/texts", is_dataset=True, detail="train"),)
    return Card(
        model_name="model",
        files=tuple(files),
        reproduce="hubquant run hub:me/model-GGUF",
        version="1.0",
        earlier=(EarlierFile(_file("Q5_0", 5.5, measured), ("with other settings",)),),
        others=("other.gguf",),
        needs=("text.txt",),
        model_id="org/model",
        revision="0" * 40,
        base_models=("org/model",),
        repo_id="me/model-GGUF",
        source={"license": "mit", "language": ["en"], "tags": ["chat"]},
        imatrix="imatrix.gguf",
        calibration=text,
        tokens_calibrated=128_000,
        evaluation=text if measured else (),
        tokens_scored=N_TOKENS if measured else 0,
        plot="plot.png" if measured else None,
        verified=True,
        not_as_source=("a note",),
        usage=Usage(32_768, 100_000, (("temp", 0.7),), "{system_prompt}\n{prompt}"),
        quantized_by="me",
    )


def _file(type: str, bits: float, measured: bool) -> MeasuredFile:
    size = int(bits * 1e9)
    runtime = RuntimeCheck(None, 8, 8, 8, "2026.10.11549") if measured else RuntimeCheck("nothing was evaluated")
    return MeasuredFile(f"model-{type}.gguf", type, size, bits, _divergence(bits) if measured else None, runtime)


def _divergence(bits: float) -> Divergence:
    ones = torch.ones(N_TOKENS, dtype=torch.float64)
    spread = torch.linspace(0, 2.0**-bits, N_TOKENS, dtype=torch.float64)
    return summarize([TokenStatistics(2 + spread, 2 * ones, spread, -spread, ones, 2 * ones)], n_vocab=32_000)

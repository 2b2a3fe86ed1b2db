"""Weights that are others for a while in a model that streams: what it predicts then, as a loaded model tells it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.blocks import open_checkpoint
from hubquant.errors import CheckpointError
from hubquant.evaluate.perturbed import perturbing
from hubquant.evaluate.scoring import scored_logits
from hubquant.models.language_model import LanguageModel
from hubquant.models.replaced import replaced
from hubquant.models.spill import Spill
from hubquant.models.stream import BlockStream, Keep, in_memory
from hubquant.models.tiny import build
from hubquant.sources.checkpoint import load_folder
from tests.convert import test_gemma3n
from tests.support.evaluation import random_chunks

CHUNKS, N_SCORED = random_chunks(2, 64, 300), 20
UP = "model.layers.{}.mlp.up_proj.weight"
OUTSIDE = ("model.embed_tokens.weight", "lm_head.weight", "model.embed_tokens_per_layer.weight")


def stream_of(model: Path, keep: Keep = in_memory) -> BlockStream:
    return BlockStream(open_checkpoint(Checkpoint.from_folder(model), "cpu"), keep)


class Loaded:
    """A loaded model that is compared with itself."""

    def __init__(self, folder: Path) -> None:
        self._model = load_folder(folder, "cpu")
        self._base = self._log_probs()

    def divergence(self, weights: Mapping[str, torch.Tensor]) -> float:
        before = dict(self._model.named_parameters())
        self._put({name: torch.nn.Parameter(x, requires_grad=False) for name, x in weights.items()})
        pairs = zip(self._base, self._log_probs(), strict=True)
        self._put({name: before[name] for name in weights})
        return sum(float((p.exp() * (p - q)).sum(1).mean()) for p, q in pairs) / len(self._base)

    def _put(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            place, _, own = name.rpartition(".")
            self._model.get_submodule(place)._parameters[own] = parameter
        self._model.tie_weights()

    def _log_probs(self) -> list[torch.Tensor]:
        model = LanguageModel(self._model)
        return [scored_logits(model, ids, N_SCORED).double().log_softmax(1) for ids in CHUNKS.ids]


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "tied": lambda folder: build("llama", folder, tie_word_embeddings=True),
    "with an output layer of its own": lambda folder: build("llama", folder, dtype=torch.bfloat16),
    "whose blocks share more than hidden states": test_gemma3n.build,
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if "share more" in kind else ()) for kind in BUILDERS]
)
def test_the_divergence_is_that_of_loaded_models(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubquant.models.spill._SMALLEST", 1)
    model = BUILDERS[kind](tmp_path / "model")
    checkpoint = Checkpoint.from_folder(model)
    weights = {name: checkpoint.read(name).float() for name in checkpoint.tensors}
    stream = stream_of(model, Spill(tmp_path))
    n = stream.n_blocks

    def other(name: str, factor: float) -> dict[str, torch.Tensor]:
        x = weights[name]
        return {name: x * torch.linspace(-1, factor, x.shape[1])}

    outside = [name for name in OUTSIDE if name in weights]
    tries = {block: [other(UP.format(block), factor) for factor in (0.5, 2)] for block in (0, n - 1)}
    with perturbing(stream, CHUNKS, N_SCORED, 0) as model_of:
        found = [model_of.outside(other(name, 0.9)) for name in outside]
        found += [kld for block, others in tries.items() for kld in model_of.in_block(block, 2, iter(others))]
    with perturbing(stream_of(model), CHUNKS, N_SCORED, n - 1) as resumed:
        assert resumed.in_block(n - 1, 2, iter(tries[n - 1])) == pytest.approx(found[-2:], rel=1e-9)
    all_tries = [*(other(name, 0.9) for name in outside), *(each for others in tries.values() for each in others)]
    loaded = Loaded(model)
    for kld, weights_then in zip(found, all_tries, strict=True):
        assert kld > 1e-6
        assert kld == pytest.approx(loaded.divergence(weights_then), rel=1e-4)


def test_what_the_model_does_not_have(tmp_path: Path) -> None:
    weights = stream_of(build("llama", tmp_path / "tiny")).weights
    weights.load_output()
    before = dict(weights.skeleton.named_parameters())
    for wrong in ({UP.format(9): torch.zeros(1)}, {"lm_head.weight": torch.zeros(2, 2)}):
        with pytest.raises(CheckpointError, match="does not fit"), replaced(weights, wrong):
            pass
    assert all(x is before[name] for name, x in weights.skeleton.named_parameters())

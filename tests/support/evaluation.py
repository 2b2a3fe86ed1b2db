"""Chunks of random tokens, and models that change a tiny real model a little."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubquant.calibration import Chunks
from hubquant.evaluate.runner import Runner
from hubquant.models.language_model import LanguageModel
from hubquant.models.tiny import build
from hubquant.sources.checkpoint import load_folder


def random_chunks(n_chunks: int, chunk_size: int, n_vocab: int, seed: int = 0) -> Chunks:
    ids = torch.randint(n_vocab, (n_chunks, chunk_size), generator=torch.Generator().manual_seed(seed))
    return Chunks(ids, ("random",), (n_chunks,), hashlib.sha256(ids.numpy().tobytes()).hexdigest())


def tiny_model(folder: Path, **config: Any) -> LanguageModel:
    return LanguageModel(load_folder(build("llama", folder, initializer_range=0.1, **config), device="cpu"))


def looked_up(table: Tensor) -> Runner:
    """That whose logits after a token are a row of ``table`` [n_vocab, n_vocab], whatever came before."""
    return lambda ids, first=0: table[ids[first:]]


def disturbed(runner: LanguageModel, strength: float) -> LanguageModel:
    """A copy of the model with noise of ``strength`` times their own size on all matrices."""
    model = copy.deepcopy(runner.model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter += strength * parameter.std() * torch.randn_like(parameter)
    return LanguageModel(model)


def counted(runner: Runner, calls: list[int], stop_after: int | None = None) -> Runner:
    """``runner`` that notes each call in ``calls`` and breaks off after ``stop_after`` of them."""

    def forward(ids: Tensor, first: int = 0, /) -> Tensor:
        if stop_after is not None and len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(1)
        return runner(ids, first)

    return forward

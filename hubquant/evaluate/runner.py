"""What an evaluation asks of a model, whatever runs it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Runner(Protocol):
    """Runs a model. :class:`hubquant.models.language_model.LanguageModel` does so by transformers."""

    def __call__(self, ids: Tensor, first: int = 0, /) -> Tensor:
        """Logits [n - first, n_vocab] of token ``ids`` [n], int64 on the CPU: row i holds those of the token after
        ``ids[first + i]``.

        The logits may be on any device and of any float type.
        """

"""Encoders with the matrices that sentence-transformers multiplies a text's embedding by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hubquant.checkpoint.modules import DENSE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class _Dense(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x)
        return result


def with_dense(encoder: type[Any]) -> type[Any]:
    """The class ``encoder`` with a module beside its own for each that its config has under ``DENSE``, by the names of
    :class:`hubquant.checkpoint.Checkpoint`; its states are those of ``encoder``."""

    class WithDense(encoder):  # type: ignore[misc]
        def __init__(self, config: PreTrainedConfig) -> None:
            super().__init__(config)
            for name, module in getattr(config, DENSE).items():
                self.add_module(name, _Dense(module["in_features"], module["out_features"]))
            self.post_init()

    return WithDense


def project(model: PreTrainedModel, pooled: Tensor) -> Tensor:
    """A pooled state [width] through the dense modules of ``model``, in their order, if it has any."""
    for name in getattr(model.config, DENSE, ()):
        pooled = model.get_submodule(name)(pooled)
    return pooled

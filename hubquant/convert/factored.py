"""Weights that a file has without a factor of the whole, and the factor beside them: NVFP4, whose blocks have no place
for it. llama.cpp multiplies what such a matrix makes of its inputs by ``NAME.scale``, whatever the matrix's type.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hubquant.checkpoint.codings.floats4 import FACTOR
from hubquant.convert.operations import Operation
from hubquant.convert.tables import Bundle

if TYPE_CHECKING:
    import torch

ARCHITECTURES = frozenset(
    {
        *("llama", "mistral3", "qwen3", "qwen3moe", "qwen35", "qwen35moe", "qwen3next", "cohere2", "cohere2moe"),
        *("nemotron_h", "nemotron_h_moe", "hy_v3", "mellum"),
    }
)
"""Of llama.cpp, whose graphs multiply by the factors of all these matrices: others load them and leave some out, as
those of qwen2, granite, glm4 and deepseek2 do."""
UNUSED = ".input_scale"
"""What llama.cpp's converter writes beside such factors, and no graph of llama.cpp computes with."""
_MATRICES = re.compile(r"blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down)(_exps)?)\.weight")


@dataclass(frozen=True)
class Factored:
    """After ``operations``, which make one tensor of ``n`` matrices, each matrix of it is divided by its factor [1];
    all factors are [n]."""

    operations: tuple[Operation, ...]
    n: int

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        import torch

        factors = torch.cat(list(tensors[self.n :]))
        (x,) = self.made(list(tensors[: self.n]))
        return [x.float() / self._spread(factors, x), factors]

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        x, factors = tensors
        found: list[torch.Tensor] = [x * self._spread(factors, x)]
        for operation in reversed(self.operations):
            found = list(operation.inverse(found))
        return [*found, *factors.reshape(-1, 1)]

    def made(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Of the matrices alone, or of their blocks."""
        for operation in self.operations:
            tensors = list(operation.forward(tensors))
        return tensors

    def _spread(self, factors: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return factors.reshape(-1, *[1] * (x.dim() - 1)) if self.n > 1 else factors


def factored(bundle: Bundle, names: Collection[str]) -> Bundle:
    """With the factors that are among ``names``, those of a checkpoint's tensors or of a file's."""
    if len(bundle.targets) != 1 or bundle.quantized or bundle.copies:
        return bundle
    ((target, shape),) = bundle.targets.items()
    factors = tuple(f"{source}{FACTOR}" for source in bundle.sources)
    beside, n = f"{target.removesuffix('weight')}scale", len(bundle.sources)
    if not _MATRICES.fullmatch(target) or not (beside in names or (factors and {*factors} <= {*names})):
        return bundle
    operation = Factored(bundle.operations, n)
    return replace(
        bundle,
        sources=(*bundle.sources, *factors),
        targets={target: shape, beside: (n,)},
        operations=(operation,),
    )


def weights_alone(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of a checkpoint by name, without factors, which no model of transformers has."""
    return {name: x for name, x in tensors.items() if not name.endswith(FACTOR)}

"""What decoders with a mixture of experts share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architectures import decoder
from hubquant.convert.operations import Dimensions
from hubquant.convert.tables import Experts, Module, Row, linear

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MOST_EXPERTS = 1 << 16


def dimensions(config: PreTrainedConfig, experts: int, n_ff_exp: int, n_ff_shexp: int = 0) -> Dimensions:
    """n_ff_exp and n_ff_shexp are the widths of one expert and of the experts that every token passes."""
    sizes = {"n_expert": experts, "n_ff_exp": n_ff_exp, "n_ff_shexp": n_ff_shexp, "one": 1}
    return {**decoder.dimensions(config), **sizes}


def routed(
    router: str = "mlp.gate", experts: str = "mlp.experts", names: tuple[str, str, str] = decoder.GATED
) -> tuple[Row, ...]:
    """The router and its experts; ``names`` are the experts' gate, up and down matrices."""
    gate, up, down = (f"{experts}.{{}}.{name}" for name in names)
    return (
        Module(router, ("n_expert", "n_embd")),
        Experts(gate, "n_ff_exp", "n_embd"),
        Experts(up, "n_ff_exp", "n_embd"),
        Experts(down, "n_embd", "n_ff_exp"),
    )


def shared(module: str) -> tuple[Row, ...]:
    """The experts that every token passes, as one."""
    gate, up, down = (f"{module}.{name}" for name in decoder.GATED)
    return (
        linear(gate, "n_ff_shexp", "n_embd"),
        linear(up, "n_ff_shexp", "n_embd"),
        linear(down, "n_embd", "n_ff_shexp"),
    )

"""The layers of a model that a library quantizes, and their names as the frameworks want them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hubquant.backends.libraries.library import Framework

if TYPE_CHECKING:
    from torch import nn

_HEADS = r"(?:.*\.)?(?:lm_head|embed_out|output_projection|vocab_projector|cls\.predictions\.decoder)"
"""Output embeddings of models of transformers, which its quantizers leave out only if they are given no names."""


def framework_of(model: Any) -> Framework:
    return "diffusers" if hasattr(model, "register_to_config") else "transformers"


def linear_layers(model: Any, skip: Sequence[str] = ()) -> Iterator[tuple[str, nn.Linear]]:
    """All ``torch.nn.Linear`` of a model by name, but those whose name holds one of ``skip``, the output embedding of a
    model of transformers, and what the model's class keeps in float32."""
    from torch import nn

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    kept = getattr(model, "_keep_in_fp32_modules", None) or ()
    for name, module in model.named_modules():
        # Not its subclasses: they are quantized already, or their owner computes with the bare weight. Nor a weight of
        # another class, which is a quantized one.
        if type(module) is not nn.Linear or type(module.weight) is not nn.Parameter or module is head:
            continue
        if not any(part in name for part in skip) and not any(f"{part}." in f"{name}." for part in kept):
            yield name, module


def left_in_floats(model: Any, is_quantized: Callable[[nn.Module], bool]) -> list[str]:
    """The names of all ``torch.nn.Linear`` whose weights are floats."""
    from torch import nn

    return [name for name, one in model.named_modules() if isinstance(one, nn.Linear) and not is_quantized(one)]


def patterns(skip: Sequence[str]) -> list[str] | None:
    """What quantizers of transformers take for "modules whose name holds one of ``skip``": regular expressions."""
    return [_HEADS, *(f".*{re.escape(part)}.*" for part in skip)] if skip else None


def exact(names: Sequence[str]) -> list[str]:
    """What quantizers of transformers take for modules of these names and no others."""
    return [f"^{re.escape(name)}$" if "." not in name else name for name in names]

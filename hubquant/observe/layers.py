"""The layers of a pipeline whose inputs are observed, by the names that their weights have in files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from hubquant.convert.diffusion.importance import HIGH_NOISE, family_name, weight_names
from hubquant.convert.tables import Shape
from hubquant.models.diffusion.parts import denoisers
from hubquant.observe.patches import Convolution

# stable-diffusion.cpp's (src/name_conversion.cpp): weights of language models stand there as transformers 4 had them.
_LANGUAGE = (("model.language_model.", "model."), ("model.visual.", "visual."), ("layers.", "model.layers."))


def text_encoders(pipe: Any) -> dict[str, torch.nn.Module]:
    """By component."""
    modules = ((name, part) for name, part in pipe.components.items() if isinstance(part, torch.nn.Module))
    return {name: part for name, part in modules if name.startswith("text_encoder")}


def family(denoiser: torch.nn.Module) -> str | None:
    """Its name, None where the family is not known."""
    return family_name(_shapes(denoiser))


def observed_layers(pipe: Any, convolutions: bool) -> dict[str, torch.nn.Module]:
    """The linear layers of all denoisers and text encoders, with ``convolutions`` those of the denoisers too, unless
    they are grouped: the rows of such a weight see different inputs.

    Of weights that stand in one tensor of the file, which have one input, the first layer is observed. Layers that a
    LoRA wraps are seen as without it.
    """
    kinds: Any = torch.nn.Linear | Convolution if convolutions else torch.nn.Linear
    found: dict[str, torch.nn.Module] = {}
    parts = denoisers(pipe)
    for component, module in parts.items():
        first_steps = component == "transformer" and "transformer_2" in parts
        layers = dict(_layers(module))
        for name, target in weight_names(_shapes(module)).items():
            layer = layers.get(name.removesuffix(".weight"))
            if isinstance(layer, kinds) and getattr(layer, "groups", 1) == 1:
                found.setdefault(HIGH_NOISE + target if first_steps else target, layer)
    for component, module in text_encoders(pipe).items():
        for name, layer in _layers(module):
            if isinstance(layer, torch.nn.Linear):
                target = _encoder_name(component, module, name, "unet" in parts)
                found[target if target not in found else f"text_encoders.{component}.{name}.weight"] = layer
    return found


def _layers(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """All modules by the names that they had before a LoRA wrapped them; what it adds is left out."""
    wrapped = [name for name, each in module.named_modules() if hasattr(each, "base_layer")]
    for name, each in module.named_modules():
        plain = _plain(name, wrapped)
        if plain is not None:
            yield plain, each


def _shapes(module: torch.nn.Module) -> dict[str, Shape]:
    wrapped = [name for name, each in module.named_modules() if hasattr(each, "base_layer")]
    shapes = {_plain(name, wrapped): tuple(x.shape) for name, x in module.state_dict().items()}
    return {name: shape for name, shape in shapes.items() if name is not None}


def _plain(name: str, wrapped: list[str]) -> str | None:
    for wrapper in wrapped:
        if name == wrapper or name.startswith(f"{wrapper}."):
            rest = name.removeprefix(wrapper).removeprefix(".")
            if rest.partition(".")[0] != "base_layer":
                return None
            return ".".join(part for part in (wrapper, rest.partition(".")[2]) if part)
    return name


def _encoder_name(component: str, encoder: torch.nn.Module, name: str, of_unet: bool) -> str:
    """A weight of a text encoder as stable-diffusion.cpp calls it; there UNets have the second CLIP in the first."""
    config: Any = encoder.config
    kind = config.model_type
    if kind in ("t5", "umt5", "mt5"):
        return f"text_encoders.t5xxl.transformer.{name}.weight"
    if kind == "clip_text_model":
        second = component == "text_encoder_2" and type(encoder).__name__ == "CLIPTextModelWithProjection"
        name = name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"
        if of_unet:
            return f"cond_stage_model.{'1.' if second else ''}transformer.{name}.weight"
        return f"text_encoders.clip_{'g' if second else 'l'}.transformer.{name}.weight"
    for theirs, ours in _LANGUAGE:
        if name.startswith(theirs):
            return f"text_encoders.llm.{ours}{name.removeprefix(theirs)}.weight"
    return f"text_encoders.llm.{name}.weight"

"""A tiny Flux transformer of diffusers with random weights, alone, and what it is called with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def save_flux(folder: Path, text_width: int, **sizes: Any) -> None:
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_attention_heads=2,
        joint_attention_dim=text_width,
        pooled_projection_dim=64,
        **sizes,
    ).save_pretrained(folder)


def flux_inputs(text_width: int) -> dict[str, torch.Tensor]:
    return {
        "hidden_states": torch.randn(1, 16, 64),
        "encoder_hidden_states": torch.randn(1, 8, text_width),
        "pooled_projections": torch.randn(1, 64),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(8, 3),
    }

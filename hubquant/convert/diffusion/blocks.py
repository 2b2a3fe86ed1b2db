"""Whether a denoiser has all its blocks: their names do not tell of those that are missing at the end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hubquant.convert.diffusion.recognise import Denoiser
from hubquant.errors import CheckpointError

_LISTS: Mapping[str, tuple[str, ...]] = {
    "num_layers": ("transformer_blocks", "double_stream_blocks", "blocks", "layers", "joint_transformer_blocks"),
    "num_mmdit_layers": ("joint_transformer_blocks",),
    "num_single_layers": ("single_transformer_blocks", "single_stream_blocks"),
    "num_single_dit_layers": ("single_transformer_blocks",),
    "n_layers": ("layers",),
}
"""The setting of diffusers' config.json that counts the blocks, and how these are called there."""


def check_blocks(denoiser: Denoiser, config: Mapping[str, Any]) -> None:
    """Raises ``CheckpointError`` where ``config`` has another number of blocks than there are. Nothing is known without
    a config, nor of files in the original layout."""
    if denoiser.layout != "diffusers":
        return
    for setting, lists in _LISTS.items():
        wanted = config.get(setting)
        found = [n for each in lists if (n := _count(each, denoiser.shapes))]
        if isinstance(wanted, int) and not isinstance(wanted, bool) and found and wanted != found[0]:
            raise CheckpointError(
                f"the denoiser has {found[0]} blocks, and its config.json {wanted}",
                why=f"{setting} counts them",
                hint="compare the files with those of the repository that the model comes from",
            )


def _count(name: str, shapes: Mapping[str, Any]) -> int:
    numbers = {int(match[1]) for each in shapes if (match := re.match(rf"{name}\.(\d+)\.", each))}
    return max(numbers, default=-1) + 1

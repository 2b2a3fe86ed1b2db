"""What settings must be for weights in MXFP4."""

from __future__ import annotations

from dataclasses import dataclass

from hubquant.checkpoint.mxfp4 import BLOCK_SIZE
from hubquant.convert.rules.rule import Rule, Settings, out_of_range


@dataclass(frozen=True)
class WholeBlocks(Rule):
    """The widths ``settings_of`` packed weights, which blocks must fill."""

    settings_of: tuple[str, ...]

    def check(self, settings: Settings) -> None:
        for name in self.settings_of:
            if settings.get("quantization_config") and type(settings.get(name)) is int and settings[name] % BLOCK_SIZE:
                raise out_of_range(name, settings[name], f"a multiple of {BLOCK_SIZE} for weights in MXFP4")

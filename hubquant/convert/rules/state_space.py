"""Rules of state-space models and of the layers that they put between others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.rules.rule import Count, Fixed, Rule, Settings, check_count, integer, out_of_range
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

AUTOMATIC = "auto"


@dataclass(frozen=True)
class TwiceAsWide(Rule):
    """The states are twice as wide as the model: the only factor that llama.cpp computes with."""

    setting: str

    def check(self, settings: Settings) -> None:
        Fixed(self.setting, 2).check(settings)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {"ssm.inner_size": u32(2 * config.hidden_size)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:  # noqa: ARG002
        return {self.setting: 2}


@dataclass(frozen=True)
class CountOrAutomatic(Count):
    """A count for which config.json may have "auto"; transformers' config class puts the number in its place."""

    def check(self, settings: Settings) -> None:
        if settings.get(self.setting) != AUTOMATIC:
            super().check(settings)


@dataclass(frozen=True)
class StateHeads(Rule):
    """The heads of Mamba 2, which share the inner width evenly, and the groups of them that share B and C."""

    heads: str
    size: str
    groups: str

    @property
    def reads(self) -> tuple[str, ...]:
        return self.heads, self.size, self.groups

    def check(self, settings: Settings) -> None:
        for setting in self.reads:
            if settings.get(setting) != AUTOMATIC:
                check_count(settings, setting, 1 << 16)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        heads, groups = getattr(config, self.heads), getattr(config, self.groups)
        if heads % groups:
            raise out_of_range(self.groups, groups, f"a divisor of the {heads} heads")
        return {"ssm.time_step_rank": u32(heads), "ssm.group_count": u32(groups)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        heads, inner = integer(metadata, "ssm.time_step_rank"), integer(metadata, "ssm.inner_size")
        return {
            self.heads: heads,
            self.size: inner // heads if inner and heads else None,
            self.groups: integer(metadata, "ssm.group_count"),
        }


@dataclass(frozen=True)
class StepsWithoutLimit(Rule):
    """Time steps that nothing clamps, as llama.cpp computes them."""

    setting: str = "time_step_limit"

    def check(self, settings: Settings) -> None:
        limits = settings.get(self.setting)
        if limits is not None and (not isinstance(limits, list | tuple) or list(limits) != [0.0, math.inf]):
            raise NotSupportedYet(f"{self.setting} {str(limits)[:40]}", why="llama.cpp does not clamp the time steps")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        self.check({self.setting: getattr(config, self.setting)})
        return {}

    def settings(self, metadata: Metadata) -> dict[str, Any]:  # noqa: ARG002
        return {self.setting: (0.0, math.inf)}

"""Settings that config.json has in a table of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.rules.rule import Rule, Settings, out_of_range
from hubquant.gguf_file.metadata import Metadata

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Nested(Rule):
    """``rules`` of the table ``setting``, for which transformers has a config class of its own."""

    setting: str
    rules: tuple[Rule, ...]

    def check(self, settings: Settings) -> None:
        """Raises ``CheckpointError`` for what is no table, else as the rules do."""
        found = settings.get(self.setting)
        table = found if isinstance(found, Mapping | None) else getattr(found, "__dict__", None)
        if found is not None and table is None:
            raise out_of_range(self.setting, found, "a table")
        for rule in self.rules:
            rule.check(table or {})

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        table = getattr(config, self.setting)
        return {key: value for rule in self.rules for key, value in rule.metadata(table).items()}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {self.setting: {k: v for rule in self.rules for k, v in rule.settings(metadata).items()}}

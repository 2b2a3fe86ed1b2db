"""A model that drafts tokens for another one, its target, whose vocabulary it has: it is converted beside that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.text_tower import is_multimodal, text_settings
from hubquant.convert.architectures import DRAFTERS, dflash, eagle3, gemma4_assistant
from hubquant.convert.config import read_architecture
from hubquant.convert.rules.rule import Settings
from hubquant.errors import UserError
from hubquant.recipe.schema import ModelReference
from hubquant.sources.source import SourceModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def _assistant(drafter: Checkpoint, target: Settings) -> Checkpoint:
    """``drafter``, whose file tells nothing of its ``target``."""
    _, own = read_architecture(drafter.config)
    architecture, config = read_architecture(target)
    gemma4_assistant.check_target(own, architecture.name, config)
    return drafter


_BESIDE = {
    **dict.fromkeys(dflash.DFLASH.classes, dflash.beside),
    **dict.fromkeys(eagle3.EAGLE3.classes, eagle3.beside),
    **dict.fromkeys(gemma4_assistant.GEMMA4_ASSISTANT.classes, _assistant),
}


@dataclass(frozen=True, kw_only=True)
class DrafterSource(SourceModel):
    """Of ``target`` no more than config and tokenizer are read."""

    target: SourceModel

    @property
    def tokenizer_folder(self) -> Path:
        return self.target.tokenizer_folder

    def on_this_machine(self) -> DrafterSource:
        here = super().on_this_machine()
        assert isinstance(here, DrafterSource)
        return here

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.target.tokenizer()

    def reference(self, component: str | None) -> ModelReference | None:
        """None where one of the two is not on the Hub."""
        if self.id is None or self.target.id is None:
            return None
        target = f"{self.target.id}@{self.target.revision}"
        return ModelReference(id=self.id, revision=self.revision, target=target, component=component)


def drafter(source: SourceModel, target: SourceModel) -> DrafterSource:
    """Raises ``CheckpointError`` where ``source`` does not draft for ``target``, ``UserError`` where it is no
    drafter."""
    beside = _BESIDE.get((source.checkpoint.config.get("architectures") or [None])[0])
    if beside is None:
        raise UserError(
            f"{source.name} is no drafter",
            why=f"a target is that of {', '.join(DRAFTERS)}",
            hint="leave --target out",
        )
    config = target.checkpoint.config
    config = {**config, **text_settings(config)} if is_multimodal(config) else config
    own = {
        "checkpoint": beside(source.checkpoint, config),
        "identity": {name: f"{value}+{target.identity['model']}" for name, value in source.identity.items()},
    }
    return DrafterSource(**{**source.given(), **own}, target=replace(target, remote=None))

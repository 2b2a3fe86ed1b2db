"""A base model with a LoRA adapter merged into it, as a source: no merged model is saved."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.merging import MergedCheckpoint, plan_changes
from hubquant.errors import UserError
from hubquant.recipe.schema import ModelReference
from hubquant.sources.adapter import WEIGHTS, Adapter
from hubquant.sources.checkpoint import state_fingerprint
from hubquant.sources.source import SourceModel
from hubquant.units import counted

if TYPE_CHECKING:
    from hubquant.hub.pull import RemoteModel


@dataclass(frozen=True, kw_only=True)
class MergedSource(SourceModel):
    """Called as the adapter is; config, tokenizer and card are those of ``base``."""

    base: SourceModel
    adapter: Adapter

    @property
    def pulls(self) -> tuple[tuple[RemoteModel, Sequence[str]], ...]:
        return (*self.base.pulls, *([(self.adapter.remote, (WEIGHTS,))] if self.adapter.remote else []))

    def on_this_machine(self) -> MergedSource:
        base = self.base.on_this_machine()
        assert isinstance(self.checkpoint, MergedCheckpoint)
        place = None
        if (remote := self.adapter.remote) is not None:
            from hubquant.hub.cache import snapshot_folder

            place = snapshot_folder(remote.id, remote.revision)
        checkpoint = self.checkpoint.with_folders(base.folder, place)
        adapter = replace(self.adapter, remote=None, checkpoint=checkpoint.adapter)
        return replace(self, folder=base.folder, base=base, adapter=adapter, checkpoint=checkpoint, remote=None)

    def reference(self, component: str | None) -> ModelReference | None:
        """None where one of the two is not on the Hub."""
        base, adapter = self.base, self.adapter
        if base.id is None or adapter.id is None:
            return None
        merge = f"{base.id}@{base.revision}"
        return ModelReference(id=adapter.id, revision=adapter.revision, merge=merge, component=component)


def merge(base: SourceModel, adapter: Adapter) -> MergedSource:
    """Raises ``NotSupportedYet`` and ``CheckpointError`` as :func:`plan_changes` does, and ``UserError`` for a base
    that is no checkpoint of a language model."""
    if not base.checkpoint.config or base.component:
        raise UserError(
            f"an adapter is not merged into {base.full_name}",
            why="the base must be a language model in a folder or a repository",
            hint="name the model that the adapter was trained on: --merge BASE",
        )
    changes = plan_changes(adapter.settings, adapter.checkpoint.tensors, base.checkpoint)
    note = (
        f"{counted(len(changes), 'weight')} of {base.full_name} {'is' if len(changes) == 1 else 'are'} changed by the "
        f"adapter {adapter.full_name}, as peft merges it"
    )
    checkpoint = MergedCheckpoint.of(base.checkpoint, adapter.checkpoint, changes, note)
    changed: dict[str, Any] = {
        "name": adapter.name,
        "id": None,
        "revision": f"{base.revision}+{adapter.revision}",
        "checkpoint": checkpoint,
        "card": _card(base, adapter),
        "identity": _identity(base, adapter),
        "download_bytes": base.download_bytes + adapter.download_bytes,
    }
    return MergedSource(**{**base.given(), **changed}, base=base, adapter=adapter)


def _card(base: SourceModel, adapter: Adapter) -> Mapping[str, Any]:
    """The base's, with both as what it is based on where they are on the Hub."""
    ids = [id for id in (base.id, adapter.id) if id]
    return {**base.card, "base_model": ids} if ids else base.card


def _identity(base: SourceModel, adapter: Adapter) -> dict[str, str]:
    if adapter.id:
        own = state = f"{adapter.id}@{adapter.revision}"
    else:
        folder = adapter.folder
        own = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        state = state_fingerprint(folder, [folder / WEIGHTS])
    settings = hashlib.sha256(repr(sorted(adapter.settings.items())).encode()).hexdigest()
    return {
        "model": f"{base.identity['model']}+{own}+{settings}",
        "state": f"{base.exact_revision}+{state}",
    }

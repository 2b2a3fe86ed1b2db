"""A LoRA adapter of peft, in a folder or a repository of the Hub, and the config.json of the model that it changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.checkpoint import Checkpoint, local_header
from hubquant.checkpoint.json_files import CONFIG, read_config, read_table
from hubquant.checkpoint.links import check_links
from hubquant.checkpoint.weight_files import ADAPTER
from hubquant.errors import CheckpointError, UserError
from hubquant.hub.front_matter import read_card
from hubquant.recipe.references import model_reference
from hubquant.recipe.schema import ModelReference
from hubquant.sources.checkpoint import folder_name, folder_of, hub_headers

if TYPE_CHECKING:
    from hubquant.hub.access import Token
    from hubquant.hub.pull import RemoteModel

WEIGHTS = "adapter_model.safetensors"
_BASE = "base_model_name_or_path"
_NAME_IT = "name the folder or the Hub id of the base: --base BASE"


@dataclass(frozen=True)
class Adapter:
    """``settings`` is adapter_config.json; ``checkpoint`` has the tensors, and no config. ``folder`` holds the weights
    once ``remote`` is None. ``id`` is that of a repository."""

    name: str
    full_name: str
    folder: Path
    settings: Mapping[str, Any]
    checkpoint: Checkpoint
    card: Mapping[str, Any]
    id: str | None = None
    revision: str = "local"
    remote: RemoteModel | None = None

    @property
    def download_bytes(self) -> int:
        from hubquant.hub.pull import not_cached_bytes

        return not_cached_bytes(self.remote, [WEIGHTS]) if self.remote else 0

    def pulled(self, advance: Callable[[int], None]) -> Checkpoint:
        """With the weights on this machine."""
        from hubquant.hub.pull import fetch_weights

        if self.remote is None:
            return self.checkpoint
        return replace(self.checkpoint, folder=fetch_weights(self.remote, [WEIGHTS], advance))

    def base_config(self, base: str | None, token: Token = None) -> dict[str, Any]:
        """config.json of ``base``, by default of the model that the adapter names. Raises ``UserError``."""
        named = self.settings.get(_BASE)
        if base is None and not (isinstance(named, str) and named):
            raise CheckpointError(f"{ADAPTER} names no base model", why=f"it has no {_BASE}", hint=_NAME_IT)
        try:
            return _read_base(base or str(named), None if base else self.settings.get("revision"), token)
        except UserError as error:
            if base:
                raise
            what = f"the base of the adapter, {str(named)!r}, cannot be read"
            raise type(error)(
                what, why=error.what, hint=f"{error.hint}; or {_NAME_IT}" if error.hint else _NAME_IT
            ) from error


def open_adapter(reference: ModelReference, token: Token = None) -> Adapter:
    """Only metadata is read. Raises ``CheckpointError`` and ``HubAccessError``."""
    if reference.id is not None:
        from hubquant.hub.pull import fetch_metadata, resolve

        remote = resolve(reference.id, reference.revision, token=token)
        folder = fetch_metadata(remote)
        _check_weights(remote.files)
        tensors = hub_headers(remote, [WEIGHTS])[WEIGHTS]
        name = remote.id.rsplit("/", 1)[-1]
        found = Adapter(name, remote.id, folder, _settings(folder), Checkpoint({}, tensors), remote.card)
        return replace(found, id=remote.id, revision=remote.revision, remote=remote)
    folder = folder_of(reference)
    check_links(folder)
    _check_weights([path.name for path in folder.iterdir() if path.is_file()])
    checkpoint = Checkpoint({}, local_header(folder / WEIGHTS, WEIGHTS), folder)
    name = folder_name(folder.resolve())
    return Adapter(name, name, folder, _settings(folder), checkpoint, read_card(folder))


def _settings(folder: Path) -> dict[str, Any]:
    return read_table(folder / ADAPTER, hint="save the adapter anew")


def _check_weights(files: Collection[str]) -> None:
    if WEIGHTS in files:
        return
    if pickles := sorted(name for name in files if name.startswith("adapter_model") and name.endswith((".bin", ".pt"))):
        raise CheckpointError(
            "this adapter has pickled weights only",
            why=f"{pickles[0]} could run code when loaded",
            hint="if you trust it, load it with peft and save it: save_pretrained(DIR) writes safetensors",
        )
    raise CheckpointError(f"this adapter has no {WEIGHTS}", hint="fetch it from where the adapter comes from")


def _read_base(text: str, revision: Any, token: Token) -> dict[str, Any]:
    found = model_reference(text)
    if "id" in found:
        from hubquant.hub.pull import fetch_file

        wanted = found.get("revision") or (revision if isinstance(revision, str) and revision else "main")
        return read_config(fetch_file(found["id"], CONFIG, wanted, token=token).parent)
    if "file" in found:
        raise UserError(f"{text} is a file", why=f"of the base its {CONFIG} is read", hint=_NAME_IT)
    from hubquant.disk import user_path

    return read_config(user_path(found["folder"]))

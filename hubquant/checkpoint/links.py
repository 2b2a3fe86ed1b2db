"""A model folder may come from anybody: no file of it is read that lies elsewhere."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from hubquant.errors import CheckpointError

LARGEST_TEMPLATE = 16 << 20  # bytes
READ = frozenset((".json", ".jinja", ".model", ".txt", ".md", ".safetensors", ".tiktoken"))
_VERSIONED = "tokenizer.model."  # and Mistral's name of its version
_BLOBS, _SNAPSHOTS = "blobs", "snapshots"


def check_links(folder: Path, others: Collection[Path] = ()) -> None:
    """Raises ``CheckpointError`` for a link out of ``folder`` in place of a file that may be read, for pipes and
    devices, and for a chat template that would fill the memory. ``others`` are files that may be read besides.

    The Hub's cache keeps snapshots/<commit>/<name> as links to blobs/<hash>; those are the repository's own.
    """
    real = Path(os.path.realpath(folder))
    snapshots = [place for place in real.parents[:2] if place.name == _SNAPSHOTS]  # of a model, or a folder in one
    own = [real, *(place.parent / _BLOBS for place in snapshots)]
    for path in sorted((*folder.glob("*"), *folder.glob("*/*"))):
        target = Path(os.path.realpath(path))
        read = path.suffix in READ or path.name.startswith(_VERSIONED) or path in others
        if not read or target.is_dir() or not target.exists():
            continue
        if not any(target.is_relative_to(place) for place in own):
            raise CheckpointError(
                f"{path} is a link that leads out of the model's folder",
                why=f"it leads to {target}",
                hint="put the file itself there, if it belongs to the model",
            )
        if not target.is_file():
            raise CheckpointError(f"{path} is no file", why="it is a pipe or a device", hint="remove it")
        if path.suffix == ".jinja" and target.stat().st_size > LARGEST_TEMPLATE:
            raise CheckpointError(
                f"{path} is too large for a template",
                why=f"it has more than {LARGEST_TEMPLATE:,} bytes",
                hint="remove it",
            )

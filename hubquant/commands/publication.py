"""What a repository of the Hub holds of a model's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.pipeline.contents import CARD, MEASUREMENTS, RECIPE
from hubquant.pipeline.push import earlier_revision
from hubquant.publish.card import is_own
from hubquant.publish.measurements import read_measurements
from hubquant.publish.recommendation import recommend

if TYPE_CHECKING:
    from hubquant.hub.access import Token


@dataclass(frozen=True)
class PublishedFile:
    """``paths`` are its shards. ``kld`` is the measured mean, None where nothing was measured; ``advice`` what is to be
    thought of it among the others there."""

    type: str
    paths: tuple[str, ...]
    size: int
    bpw: float
    kld: float | None
    advice: str


@dataclass(frozen=True)
class Publication:
    """``commit`` is None where there is no such repository yet, or none that may be seen. ``is_own`` says whether
    hubquant wrote its card, without which nothing is published there but to an empty repository. The ``files`` are
    those that hubquant made, of the model at ``revision``; ``others`` are the GGUF files that it did not."""

    repository: str
    commit: str | None
    is_own: bool
    revision: str | None
    files: tuple[PublishedFile, ...]
    others: tuple[str, ...]

    @property
    def advice(self) -> Mapping[str, str]:
        """By type, of files that were measured."""
        return {file.type: file.advice for file in self.files if file.kld is not None}


def publication(model: str, token: Token, to: str | None) -> Publication | None:
    """None where no repository is named and there is no account. Raises ``HubAccessError`` for a refused token."""
    from hubquant.hub.published import look_up
    from hubquant.hub.push import account_name, check_id

    if to is None:
        account = account_name(token)
        if account is None:
            return None
        to = f"{account}/{model.rsplit('/', 1)[-1]}-GGUF"
    check_id(to)
    found = look_up(to, [CARD, MEASUREMENTS, RECIPE], token=token)
    stored = read_measurements(found.contents.get(MEASUREMENTS, b"")).files
    own = [file for file in stored if file.is_what(found.files)]
    advice = recommend([file.measured for file in own])
    files = tuple(
        PublishedFile(
            file.type,
            file.paths,
            file.size,
            file.bpw,
            file.divergence.kld.mean if file.divergence else None,
            advice[file.measured.file],
        )
        for file in own
    )
    known = {path for file in own for path in file.paths}
    return Publication(
        to,
        found.commit,
        is_own(found.contents.get(CARD, b"").decode("utf-8", "replace")),
        earlier_revision(found, model),
        files,
        tuple(name for name in sorted(found.files) if name.endswith(".gguf") and name not in known),
    )

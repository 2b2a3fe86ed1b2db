"""A source with its weights on this machine: what every task that reads weights begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hubquant.engine.task import Context, Cost, Found
from hubquant.sources.source import SourceModel


@dataclass(frozen=True, eq=False)
class Pulled(Found[SourceModel]):
    """Of a Hub repository, downloaded into the Hub's own cache; anything else is there already."""

    source: SourceModel

    @property
    def step(self) -> str:
        return "pull" if self.source.pulls else ""

    @property
    def detail(self) -> str:
        return " and ".join(f"{remote.id} at {remote.revision[:12]}" for remote, _ in self.source.pulls)

    @property
    def label(self) -> str:
        return f"copy of {self.detail}"

    @property
    def made_from(self) -> Mapping[str, str]:
        """Of what is on this machine also where it lies: checkpoints of one training have files of the same names and
        sizes, and on some disks and in some archives of the same time too."""
        source = self.source
        return source.identity if source.id else {**source.identity, "folder": str(source.folder.resolve())}

    @property
    def cost(self) -> Cost:
        return Cost(download_bytes=self.source.download_bytes)

    def is_there(self) -> bool:
        if not self.source.pulls:
            return True
        from hubquant.hub import cache

        wanted = [(remote, file) for remote, files in self.source.pulls for file in files]
        return all(cache.cached_file(remote.id, remote.revision, file) for remote, file in wanted)

    def make(self, folder: Path, context: Context) -> None:  # noqa: ARG002
        if not self.source.pulls:
            return
        from hubquant.hub.pull import fetch_weights

        with context.progress.bar("pull", self.source.download_bytes, "B") as advance:
            for remote, files in self.source.pulls:
                fetch_weights(remote, files, advance)

    def read(self, folder: Path) -> SourceModel:  # noqa: ARG002
        return self.source.on_this_machine()

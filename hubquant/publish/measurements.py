"""What each file of a repository is and was measured to be, as a later run reads it back: measurements.json."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hubquant.disk import inside
from hubquant.evaluate.divergence import Divergence
from hubquant.evaluate.pictures import DiffusersCheck, Fidelity
from hubquant.evaluate.similarity import Similarity
from hubquant.evaluate.speed import Speed
from hubquant.llamacpp.runtime import RuntimeCheck
from hubquant.publish.fed_back import FedBack
from hubquant.publish.in_library import InLibrary
from hubquant.publish.recommendation import MeasuredFile

DIFFERENCES = {
    "model": "of another model or another state of it",
    "imatrix": "with another importance matrix",
    "settings": "with other settings",
    "evaluation": "measured otherwise",
    "hubquant": "by another version of hubquant",
}
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
OF_THE_FILE = ("model", "imatrix", "settings")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class MadeWith(_Frozen):
    """What files have in common that stand in one table; fingerprints but for the version."""

    model: str
    imatrix: str | None
    settings: str
    evaluation: str | None
    hubquant: str

    def differences(self, other: MadeWith) -> list[str]:
        """In words for the card."""
        return [text for name, text in DIFFERENCES.items() if getattr(self, name) != getattr(other, name)]

    def is_reproduced_by(self, other: MadeWith) -> bool:
        """Whether a recipe that makes the others makes this file."""
        return all(getattr(self, name) == getattr(other, name) for name in OF_THE_FILE)


class FileMeasurement(_Frozen):
    """``sha256`` by path in the repository, of every shard; ``divergence`` without what is told of each chunk."""

    sha256: Annotated[dict[Annotated[str, AfterValidator(inside)], str], Field(min_length=1)]
    type: str
    size: int
    bpw: float
    fork: str | None
    made_with: MadeWith
    divergence: Divergence | None
    runtime: RuntimeCheck | None
    in_llamacpp: Divergence | None = None
    similarity: Similarity | None = None
    fidelity: Fidelity | None = None
    with_imatrix: bool | None = None
    loaded_by: tuple[str, ...] = ()
    in_diffusers: DiffusersCheck | None = None
    library: InLibrary | None = None
    speed: Speed | None = None
    fed_back: FedBack | None = None

    @classmethod
    def of(cls, file: MeasuredFile, sha256: Mapping[str, str], made_with: MadeWith) -> FileMeasurement:
        return cls(
            sha256=dict(sha256),
            type=file.type,
            size=file.size,
            bpw=file.bpw,
            fork=file.fork,
            made_with=made_with,
            divergence=file.divergence and replace(file.divergence, chunks=()),
            runtime=file.runtime,
            in_llamacpp=file.in_llamacpp,
            similarity=file.similarity,
            fidelity=file.fidelity,
            with_imatrix=file.with_imatrix,
            loaded_by=file.loaded_by,
            in_diffusers=file.in_diffusers,
            library=file.library,
            speed=file.speed,
            fed_back=file.fed_back,
        )

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self.sha256)

    def is_what(self, digests: Mapping[str, str | None]) -> bool:
        """Whether these files are the measured ones, as far as their digests are known."""
        return all(path in digests and digests[path] in (None, sha256) for path, sha256 in self.sha256.items())

    @property
    def name(self) -> str:
        """Of the model and the type, however it is cut into shards; of a folder its own."""
        first = PurePosixPath(self.paths[0])
        return first.parts[0] if self.library else SHARD.sub("", first.stem)

    @property
    def measured(self) -> MeasuredFile:
        return MeasuredFile(
            self.name if self.library else self.paths[0],
            self.type,
            self.size,
            self.bpw,
            self.divergence,
            self.runtime,
            self.fork,
            self.in_llamacpp,
            self.similarity,
            self.fidelity,
            self.with_imatrix,
            self.loaded_by,
            self.in_diffusers,
            self.library,
            self.speed,
            self.fed_back,
        )


class Measurements(_Frozen):
    """``card_sha256`` is that of the card which was made of them."""

    version: Literal[1] = 1
    card_sha256: str | None = None
    files: tuple[FileMeasurement, ...] = ()


def dump_measurements(files: Iterable[FileMeasurement], card_sha256: str) -> bytes:
    return Measurements(files=tuple(files), card_sha256=card_sha256).model_dump_json(indent=1).encode()


def read_measurements(content: bytes) -> Measurements:
    """Empty where they cannot be read."""
    try:
        return Measurements.model_validate_json(content)
    except ValidationError:
        return Measurements()


def with_earlier(files: Sequence[FileMeasurement], earlier: Iterable[FileMeasurement]) -> list[FileMeasurement]:
    """``files`` and those ``earlier`` ones that they do not replace, from the largest to the smallest."""
    return sorted([*files, *not_replaced(earlier, {file.name for file in files})], key=lambda file: -file.size)


def not_replaced(earlier: Iterable[FileMeasurement], names: Collection[str]) -> list[FileMeasurement]:
    return [file for file in earlier if file.name not in names]

"""What each file of a repository is and was measured to be, as a later run reads it back: measurements.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hubquant.disk import inside
from hubquant.evaluate.divergence import Divergence
from hubquant.evaluate.runtime import RuntimeCheck
from hubquant.publish.recommendation import MeasuredFile

DIFFERENCES = {
    "model": "of another state of the model",
    "imatrix": "with another importance matrix",
    "settings": "with other settings",
    "evaluation": "measured on another text",
    "hubquant": "by another version of hubquant",
}
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
    """``paths`` in the repository, of every shard."""

    paths: Annotated[tuple[Annotated[str, AfterValidator(inside)], ...], Field(min_length=1)]
    type: str
    size: int
    bpw: float
    fork: str | None
    made_with: MadeWith
    divergence: Divergence | None
    runtime: RuntimeCheck | None

    @classmethod
    def of(cls, file: MeasuredFile, paths: Sequence[str], made_with: MadeWith) -> FileMeasurement:
        return cls(
            paths=tuple(paths),
            type=file.type,
            size=file.size,
            bpw=file.bpw,
            fork=file.fork,
            made_with=made_with,
            divergence=file.divergence,
            runtime=file.runtime,
        )

    @property
    def measured(self) -> MeasuredFile:
        return MeasuredFile(self.paths[0], self.type, self.size, self.bpw, self.divergence, self.runtime, self.fork)


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
    """``files`` and those ``earlier`` ones whose types they do not have, from the largest to the smallest."""
    types = {file.type for file in files}
    return sorted([*files, *(file for file in earlier if file.type not in types)], key=lambda file: -file.size)

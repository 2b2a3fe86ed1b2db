"""The pictures of a recipe: what a diffusion model draws, to be calibrated or measured while it does."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hubquant.disk import without_folders
from hubquant.recipe.texts import Frozen, HubId, exactly_one

BundledPrompts = Literal["prompts", "prompts-test", "demo-prompts", "demo-prompts-test"]
Edge = Annotated[int, Field(gt=0, le=16384)]


class PromptSource(Frozen):
    """Prompts: exactly one of ``file``, ``dataset`` and ``bundled``."""

    file: str | None = None
    """A file of this machine, or a folder with a dataset: .jsonl, .ndjson and .parquet are rows; of anything else, a
    text in UTF-8, each line is a prompt. Empty lines and those that begin with # are left out."""
    dataset: HubId | None = None
    """A dataset of the Hub, streamed: no more is downloaded than is needed."""
    bundled: BundledPrompts | None = None
    """Prompts that come with hubquant: 64 to calibrate with, and 16 others, ``prompts-test``, to measure with; 24 and 8
    of what the bundled diffusion model draws."""
    config: str | None = None
    """The configuration of a dataset that has several."""
    split: str = "train"
    """The split of a dataset."""
    revision: str | None = None
    """Of ``dataset``: a branch, tag or commit; by default its main branch."""
    field: str = "prompt"
    """The field of a row that holds the prompt."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        return exactly_one(self, ("file", "dataset", "bundled"))

    @property
    def display_name(self) -> str:
        """As it stands in provenance: a dataset's id, a file's name (never its folder), or the bundled list's name."""
        if self.dataset:
            return self.dataset
        return without_folders(self.file) if self.file else f"hubquant:{self.bundled}"


class Pictures(Frozen):
    """What a diffusion model draws. What is not given is the model's own default."""

    prompts: Annotated[tuple[PromptSource, ...], Field(min_length=1)] = (PromptSource(bundled="prompts"),)
    """One or more lists of prompts, which take turns."""
    count: Annotated[int, Field(gt=0, le=100_000)] = 32
    """How many pictures, or videos. With fewer prompts than that each stands for several, from other noise."""
    steps: Annotated[int, Field(gt=0, le=10_000)] | None = None
    """Denoising steps of a picture."""
    size: Edge | tuple[Edge, Edge] | None = None
    """The edge of a square, or width and height, in pixels."""
    frames: Annotated[int, Field(gt=0, le=10_000)] | None = None
    """Frames of a video."""
    guidance: Annotated[float, Field(ge=0, le=1000)] | None = None
    """The guidance scale: how far the prompt is followed."""
    batch: Annotated[int, Field(gt=0, le=4096)] = 1
    """So many pictures are drawn at once."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the first picture's noise; that of each other picture is one more."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the noise of each picture."""
        return tuple(range(self.seed, self.seed + self.count))

    @property
    def width_and_height(self) -> tuple[int, int] | None:
        """In pixels; None for the model's own."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class MeasuredPictures(Pictures):
    """What a diffusion model draws to be measured: the source, and every file from the same noise."""

    prompts: Annotated[tuple[PromptSource, ...], Field(min_length=1)] = (PromptSource(bundled="prompts-test"),)
    """One or more lists of prompts, which take turns."""
    count: Annotated[int, Field(gt=0, le=100_000)] = 4
    """How many pictures, or videos."""

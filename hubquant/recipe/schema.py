"""The recipe: what to make of which model, with what data, how good it must be and where it goes.

Every model is frozen and refuses unknown keys; every field has a default, so ``model`` alone is a recipe.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from hubquant.disk import without_folders

ModelT = TypeVar("ModelT", bound=BaseModel)
Part = Annotated[str, Field(min_length=1)]
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
HUB_PREFIX = "hub:"
BundledText = Literal["calibration", "demo-calibration", "test"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _exactly_one(model: ModelT, names: tuple[str, ...]) -> ModelT:
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        raise ValueError(f"exactly one of {', '.join(names)} must be given, not {' and '.join(given) or 'none'}")
    return model


def _hub_id(value: str) -> str:
    if not HUB_ID.fullmatch(value):
        raise ValueError("a Hub id such as org/name is wanted; what is on this machine is named by folder or file")
    return value


HubId = Annotated[str, AfterValidator(_hub_id)]


class ModelReference(Frozen):
    """Exactly one of a Hub id, a local folder, a GGUF file, or a model bundled with the package."""

    id: HubId | None = None
    folder: str | None = None
    file: str | None = None
    bundled: Literal["demo"] | None = None
    revision: str = "main"
    allow_pickle: bool = False

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        return _exactly_one(self, ("id", "folder", "file", "bundled"))

    @property
    def display_name(self) -> str:
        return self.id or self.folder or self.file or f"{self.bundled} (bundled)"


class TextSource(Frozen):
    """Text to calibrate or to evaluate on: a local file or folder, a Hub dataset, or a text bundled with the package.

    With ``parse_special`` the names of special tokens in a plain text stand for these tokens, as always in rendered
    conversations.
    """

    file: str | None = None
    dataset: HubId | None = None
    bundled: BundledText | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    field: str = "text"
    chat_template: bool = False
    parse_special: bool = False
    samples: Annotated[int, Field(gt=0)] | None = None
    weight: Annotated[float, Field(gt=0, le=1e9)] = 1.0

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        return _exactly_one(self, ("file", "dataset", "bundled"))

    @property
    def display_name(self) -> str:
        """As it stands in provenance: a dataset's id, a file's name (never its folder), or the bundled text's name."""
        if self.dataset:
            return self.dataset
        return without_folders(self.file) if self.file else f"hubquant:{self.bundled}"


class Convert(Frozen):
    """``pre_tokenizer`` is llama.cpp's name for the split before byte-level BPE; by default it is recognised."""

    pre_tokenizer: str | None = None


class Calibration(Frozen):
    sources: tuple[TextSource, ...] = (TextSource(bundled="calibration"),)
    chunk_size: Annotated[int, Field(ge=16)] = 512
    chunks: Annotated[int, Field(gt=0)] = 250
    seed: int = 0


class Imatrix(Frozen):
    """``file`` uses an existing matrix, ``files`` the sum of several; ``skip`` quantizes without one.

    Of the entries those are used whose name holds one of ``include_weights``, or none of ``exclude_weights``.
    ``offload`` is for models larger than memory: "cpu" and "disk" are accelerate's, with transformers' ``max_memory``;
    "stream" has one block in memory at a time; "auto" streams what does not fit.
    """

    file: str | None = None
    files: tuple[str, ...] = ()
    skip: bool = False
    process_output: bool = False
    offload: Literal["auto", "none", "cpu", "disk", "stream"] = "auto"
    max_memory: dict[str, str] = {}
    include_weights: tuple[Part, ...] = ()
    exclude_weights: tuple[Part, ...] = ()

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.skip and (self.given or self.include_weights or self.exclude_weights):
            raise ValueError("skip contradicts the other settings")
        if self.file is not None and self.files:
            raise ValueError("file and files contradict each other")
        if self.include_weights and self.exclude_weights:
            raise ValueError("include_weights and exclude_weights contradict each other")
        return self

    @property
    def given(self) -> tuple[str, ...]:
        """The matrices that are there, each a file or ``hub:org/repo/file``."""
        return self.files if self.file is None else (self.file,)


class Rule(Frozen):
    """``match`` is a regular expression searched in the GGUF tensor name; the first matching rule decides."""

    match: str
    type: str


class Quantize(Frozen):
    types: tuple[str, ...] = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
    mode: Literal["exact", "best"] = "best"
    rules: tuple[Rule, ...] = ()
    pure: bool = False
    output_tensor: str | None = None
    token_embedding: str | None = None
    allow_fork_types: bool = False
    allow_requantize: bool = False


class Evaluate(Frozen):
    sources: tuple[TextSource, ...] = (TextSource(bundled="test"),)
    chunk_size: Annotated[int, Field(ge=16)] = 512
    chunks: Annotated[int, Field(gt=0)] = 48
    skip: bool = False


class Gates(Frozen):
    """Upper bounds by file type; a file above one is not published."""

    kld_mean: dict[str, float] = {}


class Publish(Frozen):
    """``base_model`` is the Hub id that the card of a local model names."""

    to: str | None = None
    base_model: HubId | None = None
    private: bool = False
    shard_size: str = "45GiB"


class Recipe(Frozen):
    version: Literal[1] = 1
    model: ModelReference
    convert: Convert = Convert()
    calibration: Calibration = Calibration()
    imatrix: Imatrix = Imatrix()
    quantize: Quantize = Quantize()
    evaluate: Evaluate = Evaluate()
    gates: Gates = Gates()
    publish: Publish = Publish()

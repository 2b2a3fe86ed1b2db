"""The recipe: what to make of which model, with what data, how good it must be and where it goes.

Every model is frozen and refuses unknown keys; every field has a default, so ``model`` alone is a recipe. The strings
below the fields are their descriptions: docs/recipe.md is made of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from hubquant.recipe.backends import is_of_library, with_backends_merged
from hubquant.recipe.names import branch_name
from hubquant.recipe.pictures import MeasuredPictures, Pictures
from hubquant.recipe.references import model_reference
from hubquant.recipe.texts import BundledText as BundledText
from hubquant.recipe.texts import Frozen as Frozen
from hubquant.recipe.texts import HubId, exactly_one
from hubquant.recipe.texts import TextSource as TextSource

Part = Annotated[str, Field(min_length=1)]


class ModelReference(Frozen):
    """The source: exactly one of ``id``, ``folder``, ``file`` and ``bundled``. A text stands for ``id``, or for
    whichever of them it names."""

    id: HubId | None = None
    """A repository of the Hub, whatever lies in the current folder under that name."""
    folder: str | None = None
    """A folder of this machine with config.json, safetensors and the tokenizer's files."""
    file: str | None = None
    """A GGUF file of this machine, or a safetensors file with a denoiser; with ``allow_pickle`` also a pickled one."""
    component: Part | None = None
    """Of a diffusers pipeline the part that is quantized: a denoiser, such as transformer or transformer_2, or a text
    encoder, such as text_encoder_2, with its tokenizer. By default the first denoiser."""
    bundled: Literal["demo", "demo-diffusion"] | None = None
    """A model that comes with hubquant: 3.7 M weights, trained on Python's documentation, or a pipeline whose denoiser
    has 3.4 M weights and draws coloured shapes."""
    revision: str = "main"
    """Of ``id``: a branch, tag or commit. Published recipes hold the commit."""
    merge: Annotated[str, Field(min_length=1)] | None = None
    """Where ``id`` or ``folder`` is a LoRA adapter: its base, a Hub id (with @revision) or a folder, whose weights the
    adapter changes while they are read."""
    target: Annotated[str, Field(min_length=1)] | None = None
    """Where ``id`` or ``folder`` is a drafter: the model that it drafts for, a Hub id (with @revision) or a folder, of
    which config and tokenizer are read."""
    allow_pickle: bool = False
    """Weights in pytorch_model.bin where there are no safetensors, or a denoiser in a pickled ``file``: tensors are
    read and no code is run."""

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, data: Any) -> Any:
        return model_reference(os.fspath(data)) if isinstance(data, str | os.PathLike) else data

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if self.revision != "main" and self.id is None:
            raise ValueError("a revision is that of a repository on the Hub, and the model is none")
        if self.merge and not (self.id or self.folder):
            raise ValueError("what is merged into a base is an adapter in a repository or a folder")
        if self.target and (self.merge or not (self.id or self.folder)):
            raise ValueError("what has a target is a drafter in a repository or a folder")
        return exactly_one(self, ("id", "folder", "file", "bundled"))

    @property
    def display_name(self) -> str:
        return self.id or self.folder or self.file or f"{self.bundled} (bundled)"


class Convert(Frozen):
    """How the model becomes GGUF."""

    pre_tokenizer: str | None = None
    """llama.cpp's name for the split before byte-level BPE. By default the tokenizer's structure tells."""
    no_mtp: bool = False
    """Leave out the layers behind the last one that predict further tokens, with which llama.cpp drafts."""
    mmproj: tuple[Literal["F32", "F16", "BF16", "Q8_0"], ...] | None = None
    """Of a multimodal model, the types of the files that it sees or hears with. By default one of F16; ``[]`` makes
    none."""


class Calibration(Frozen):
    """What the importance matrix is collected from: text, or of a diffusion model ``pictures`` that it draws."""

    sources: tuple[TextSource, ...] = (TextSource(bundled="calibration"),)
    """One or more texts, mixed by their weights."""
    chunk_size: Annotated[int, Field(ge=16)] = 512
    """Tokens in a chunk: what the model sees at once."""
    chunks: Annotated[int, Field(gt=0)] = 250
    """At most so many chunks, of all sources together."""
    seed: int = 0
    """Decides which rows the ``samples`` of a source are. Those of an evaluation are always the same."""
    pictures: Pictures = Pictures()
    """The pictures of a diffusion model."""


class Imatrix(Frozen):
    """The importance matrix: where it comes from, how it is collected, and what it is used for."""

    file: str | None = None
    """A matrix that is there, a file or ``hub:org/repo/file``, instead of a collected one."""
    files: tuple[str, ...] = ()
    """Several of them, added up by tokens."""
    skip: bool = False
    """Quantize without a matrix. Types that need one are refused."""
    process_output: bool = False
    """Collect for ``output.weight`` too."""
    offload: Literal["auto", "none", "cpu", "disk", "stream"] = "auto"
    """For models larger than memory: ``stream`` has one block in memory at a time, ``cpu`` and ``disk`` are
    accelerate's; ``auto`` streams what does not fit."""
    max_memory: dict[str, str] = {}  # noqa: RUF012 (ruff does not see that this is pydantic's)
    """For ``cpu`` and ``disk``: how much accelerate may take of each device, by its number or ``cpu``."""
    include_weights: tuple[Part, ...] = ()
    """Use the matrix only for weights with one of these in their GGUF name."""
    exclude_weights: tuple[Part, ...] = ()
    """Use it for all but those."""
    compare: bool = True
    """Of a diffusion model, make each file with the matrix and without, and keep the one whose predictions are nearer
    to the source's: the matrix does not help every model and type."""

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
    """A type for tensors by their names. The first rule that matches decides, before llama.cpp's own."""

    match: str
    """A regular expression, in lower case, that is searched in the GGUF name of a tensor."""
    type: str
    """The tensor type: Q6_K, and not a mix such as Q4_K_M."""


class NamedType(Frozen):
    """A file with settings of its own, before those of all files, and with a name of its own: what is called Q4_K_L is
    Q4_K_M with Q8_0 for two tensors."""

    name: str
    """Stands for the type in the file's name, on the card and in ``gates``: letters, digits, ``_`` and single ``-``.
    What follows the last ``-`` begins with a type, as in UD-Q4_K_XL: by that programs find a file in a repository."""
    type: str
    """The file type of llama-quantize that it is but for these settings."""
    rules: tuple[Rule, ...] = ()
    """Rules before those of all files."""
    pure: bool | None = None
    """By default that of all files."""
    output_tensor: str | None = None
    """By default that of all files."""
    token_embedding: str | None = None
    """By default that of all files."""


IN_TYPES = ("a type", "a named type")
"""What errors of pydantic call the two kinds of elements of ``types``."""
FileEntry = Annotated[
    Annotated[str, Tag(IN_TYPES[0])] | Annotated[NamedType, Tag(IN_TYPES[1])],
    Discriminator(lambda value: IN_TYPES[isinstance(value, (Mapping, NamedType))]),
]


class Quantize(Frozen):
    """Which files are made, and how.

    A type is GGUF's, with or without ``gguf:`` before it, or one of a library that transformers or diffusers loads:
    ``bitsandbytes:nf4``, ``quanto:qint4``, ``torchao:int8wo``, ``nncf:int4_sym``, ``sdnq:uint4``, each a folder beside
    the GGUF files (see docs/backends.md). What only GGUF has may stand under its name too: ``gguf: {pure: true}`` is
    ``pure: true``.
    """

    types: tuple[FileEntry, ...] = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
    """File types of llama-quantize, one file each; one with settings of its own has a name. Or the most that a file may
    take, 3.5bpw or 4.2GiB: then the types of its tensors are chosen by what each does to the model. And types of
    libraries, one folder each."""
    mode: Literal["exact", "best"] = "best"
    """``best`` searches for the smallest error in the type's layout; ``exact`` gives llama.cpp's bytes."""
    rounding: Literal["nearest", "feedback"] = "nearest"
    """``feedback`` rounds each weight for what the rounding of others did to a layer's outputs, and keeps that where
    it is better on text that was held out. The files take longer, and are as large and load as any others."""
    rules: tuple[Rule, ...] = ()
    """Types for tensors by their names. A rule that fits no tensor is noted in the plan."""
    pure: bool = False
    """Every matrix in the file's own type, without llama.cpp's mixing."""
    output_tensor: str | None = None
    """The tensor type of ``output.weight``."""
    token_embedding: str | None = None
    """The tensor type of ``token_embd.weight``."""
    prune_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Layers to leave out of the files, the first being 0. They are measured against the whole model."""
    leave_output_tensor: bool = False
    """``output.weight`` stays in the type that it has in the source."""
    override_kv: tuple[str, ...] = ()
    """Metadata of the files, as llama-quantize takes it: KEY=TYPE:VALUE with int, float, bool or str."""
    allow_fork_types: bool = False
    """Types that only a fork of llama.cpp reads (Q3_K_HIFI)."""
    allow_requantize: bool = False
    """A source that is quantized already, a GGUF file, GPTQ, AWQ and the like: errors add up."""
    skip_modules: tuple[Part, ...] = ()
    """Of libraries: layers with one of these in their name in transformers stay in floats."""

    @model_validator(mode="before")
    @classmethod
    def _of_backends(cls, data: Any) -> Any:
        return with_backends_merged(data) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.rounding == "feedback" and self.mode == "exact":
            raise ValueError("rounding: feedback and mode: exact, which gives llama.cpp's bytes, contradict each other")
        if self.leave_output_tensor and self.output_tensor:
            raise ValueError("leave_output_tensor and output_tensor contradict each other")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Of the files: their types, or the names that the recipe gives them."""
        return tuple(map(name_of, self.types))

    @property
    def of_gguf(self) -> Quantize:
        """With the types of GGUF alone, of which there may be none."""
        return self.model_copy(update={"types": tuple(each for each in self.types if not _of_library(each))})

    @property
    def in_libraries(self) -> tuple[str, ...]:
        """The other types, each with its library before a colon."""
        return tuple(name_of(each) for each in self.types if _of_library(each))

    def of(self, entry: str | NamedType) -> Quantize:
        """The settings of one file, whose type is the only one."""
        if isinstance(entry, str):
            return self.model_copy(update={"types": (entry,)})
        own = entry.model_dump(include={"pure", "output_tensor", "token_embedding"}, exclude_none=True)
        if entry.output_tensor:
            own["leave_output_tensor"] = False
        return self.model_copy(update={"types": (entry.type,), "rules": (*entry.rules, *self.rules), **own})


def name_of(entry: str | NamedType) -> str:
    return entry if isinstance(entry, str) else entry.name


def _of_library(entry: str | NamedType) -> bool:
    return isinstance(entry, str) and is_of_library(entry)


class Evaluate(Frozen):
    """How every file is measured against the source."""

    sources: tuple[TextSource, ...] = (TextSource(bundled="test"),)
    """One or more texts, which should share nothing with those of ``calibration``."""
    chunk_size: Annotated[int, Field(ge=16)] = 512
    """Tokens in a chunk; the second half of each is scored, as llama-perplexity does. Of an encoder each chunk is a
    text that is embedded."""
    chunks: Annotated[int, Field(gt=0)] = 48
    """At most so many chunks, of all sources together."""
    way: Literal["auto", "stored", "streamed"] = "auto"
    """``stored`` loads the model and each file as a whole, and keeps the model's predictions; ``streamed`` has one
    block in memory at a time, and keeps what the model's last block gave; ``auto`` streams what does not fit."""
    engine: Literal["auto", "torch", "both"] = "auto"
    """What runs the files: transformers with the files' weights (``torch``), or besides llama.cpp on the CPU, which
    quantizes activations too (``both``). By default both where xllamacpp is installed."""
    margin: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Stop when mean KLD and composite score are known to this share of themselves, such as 0.05; by default after
    all chunks."""
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    """How probable it is that they are, where a ``margin`` is asked for."""
    pictures: MeasuredPictures = MeasuredPictures()
    """What a diffusion model draws to be measured, which should share nothing with the pictures of ``calibration``."""
    skip: bool = False
    """Measure nothing."""


class Gates(Frozen):
    """Bounds; a file beyond one is not published."""

    kld_mean: dict[str, float] = {}  # noqa: RUF012 (as above)
    """By file type: the largest mean KL divergence from the source, in nats per token."""
    cosine_mean: dict[str, float] = {}  # noqa: RUF012 (as above)
    """By file type of an encoder: the least mean cosine of its embeddings with the source's."""
    prediction_error: dict[str, float] = {}  # noqa: RUF012 (as above)
    """By file type of a diffusion model: the largest mean relative error of its predictions, as a share of one."""


class Publish(Frozen):
    """Where the files go."""

    to: str | None = None
    """The repository on the Hub, made if it is not there. By default the files stay in the output folder."""
    base_model: HubId | None = None
    """The Hub id that the card names as the base model, where the model is local."""
    private: bool = False
    """Make the repository a private one."""
    gated: Literal["inherit", "auto", "manual"] | None = None
    """Who gives access to the repository: the Hub at once (``auto``), you (``manual``), or as it is with the source
    (``inherit``). By default nobody is asked, or who is asked already."""
    i_have_permission: bool = False
    """Publish files of a model whose licence allows no derivatives, because its authors have allowed it."""
    card: str | None = None
    """A template of this machine for the card, in Jinja: see docs/publishing.md."""
    name: Part | None = None
    """The model's name in the files, ``general.name``. By default the card or the id of the model tells."""
    quantized_by: Part | None = None
    """Who has quantized, on the card and in the files (``general.quantized_by``). By default the card names the account
    and the files hubquant."""
    repo_url: Part | None = None
    """Where the files are from, ``general.repo_url`` in the files."""
    branch: Annotated[Part, AfterValidator(branch_name)] | None = None
    """The branch that is published to, made of main if it is not there."""
    create_pr: bool = False
    """Publish as a pull request. One of yours with the same title that is still open gets a further commit."""
    commit_message: Annotated[str, Field(min_length=1)] = "Publish quantized files"
    """The title of the commit or the pull request."""
    prune: bool = False
    """Remove what hubquant made of types that ``quantize.types`` no longer names. By default they stay."""
    layout: Literal["original", "diffusers", "comfyui"] | None = None
    """What the tensors of a diffusion model are called: as its authors did, which most programs load, as diffusers
    does, or as ComfyUI-GGUF takes more of Stable Diffusion 1, 2 and XL: convolutions are quantized too. By default what
    most load of its family."""
    shard_size: str = "45GiB"
    """The largest file. What is larger is cut into shards, which llama.cpp loads by the first."""

    @model_validator(mode="after")
    def _to_one_place(self) -> Publish:
        if self.branch is not None and self.create_pr:
            raise ValueError("a pull request has a branch of its own: leave branch or create_pr out")
        return self


class Recipe(Frozen):
    """What to make of which model, with what data, how good it must be and where it goes."""

    version: Literal[1] = 1
    """The version of this format."""
    model: ModelReference
    """What is quantized."""
    convert: Convert = Convert()
    """How the model becomes GGUF."""
    calibration: Calibration = Calibration()
    """The text that the importance matrix is collected from."""
    imatrix: Imatrix = Imatrix()
    """The importance matrix."""
    quantize: Quantize = Quantize()
    """Which files are made, and how."""
    evaluate: Evaluate = Evaluate()
    """How every file is measured."""
    gates: Gates = Gates()
    """What a file must reach to be published."""
    publish: Publish = Publish()
    """Where the files go."""

    if TYPE_CHECKING:  # what pydantic takes for a field is more than the field's own type

        def __init__(
            self,
            *,
            model: ModelReference | str | Mapping[str, Any],
            version: Literal[1] = 1,
            convert: Convert | Mapping[str, Any] = ...,
            calibration: Calibration | Mapping[str, Any] = ...,
            imatrix: Imatrix | Mapping[str, Any] = ...,
            quantize: Quantize | Mapping[str, Any] = ...,
            evaluate: Evaluate | Mapping[str, Any] = ...,
            gates: Gates | Mapping[str, Any] = ...,
            publish: Publish | Mapping[str, Any] = ...,
        ) -> None: ...

"""The texts of a recipe: files, datasets, bundled texts, and what plugins of the user give."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from hubquant.disk import without_folders
from hubquant.recipe.names import HUB_ID

ModelT = TypeVar("ModelT", bound=BaseModel)
BundledText = Literal["calibration", "demo-calibration", "test"]
Language = Annotated[str, Field(pattern=r"^[\w.-]+$")]
LANG = "{lang}"
BY_LANGUAGE = ("file", "config", "split", "field")
"""The fields of a text in which ``{lang}`` is a language."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def exactly_one(model: ModelT, names: tuple[str, ...]) -> ModelT:
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        raise ValueError(f"exactly one of {', '.join(names)} must be given, not {' and '.join(given) or 'none'}")
    return model


def _hub_id(value: str) -> str:
    if not HUB_ID.fullmatch(value):
        raise ValueError("a Hub id such as org/name is wanted; what is on this machine is named by folder or file")
    return value


HubId = Annotated[str, AfterValidator(_hub_id)]


def _plugin(value: str) -> str:
    file, _, name = value.rpartition(":")
    if not file or not name.isidentifier():
        raise ValueError("a file and a class in it are wanted, such as my_source.py:MySource")
    return value


PluginClass = Annotated[str, AfterValidator(_plugin)]


class TextSource(Frozen):
    """Text to calibrate or to evaluate on: exactly one of ``file``, ``dataset``, ``bundled`` and ``plugin``."""

    file: str | None = None
    """A file of this machine, or a folder with a dataset: .jsonl, .ndjson and .parquet are rows, anything else is one
    text in UTF-8."""
    dataset: HubId | None = None
    """A dataset of the Hub, streamed: no more is downloaded than is needed."""
    bundled: BundledText | None = None
    """A text that comes with hubquant; ``test`` shares no document with the others."""
    plugin: PluginClass | None = None
    """A file and a class in it that gives texts: code of your own, which runs on this machine. See docs/datasets.md."""
    langs: tuple[Language, ...] = ()
    """The languages that a plugin is asked for. For files and datasets each stands in turn for ``{lang}`` in ``file``,
    ``config``, ``split`` or ``field``. They take turns, so that each has about as many characters."""
    config: str | None = None
    """The configuration of a dataset that has several."""
    split: str = "train"
    """The split of a dataset."""
    revision: str | None = None
    """Of ``dataset``: a branch, tag or commit; by default its main branch."""
    field: str = "text"
    """The field of a row that holds the text, or a list of messages with role and content."""
    chat_template: bool = False
    """Texts of ``field`` become messages of a user, in the model's chat template. Lists of messages always do."""
    parse_special: bool = False
    """The names of special tokens in a plain text stand for these tokens, as always in conversations."""
    samples: Annotated[int, Field(gt=0)] | None = None
    """So many rows of each language, chosen at random; by default all, in their order. A plugin is asked for so many,
    by default 200, and chooses itself."""
    skip: Annotated[int, Field(ge=0)] = 0
    """So many rows of each language are left out, of those and in that order."""
    weight: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    """The share of this source in the chunks, relative to the other sources. What it has too little of comes from
    them."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """Of several texts to evaluate on, such as languages: each that has a name is measured by itself too."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        return exactly_one(self, ("file", "dataset", "bundled", "plugin"))

    @model_validator(mode="after")
    def _langs_have_a_place(self) -> Self:
        if twice := [lang for lang in self.langs if self.langs.count(lang) > 1]:
            raise ValueError(f"{twice[0]} is given twice in langs")
        if self.plugin is not None:
            if not self.langs:
                raise ValueError("a plugin is asked for one language after the other, and langs is missing")
        elif bool(self.langs) != any(LANG in str(getattr(self, field)) for field in BY_LANGUAGE):
            raise ValueError(f"langs and {LANG} in {', '.join(BY_LANGUAGE[:-1])} or {BY_LANGUAGE[-1]} belong together")
        return self

    @property
    def by_language(self) -> dict[str, TextSource]:
        """The source of each of ``langs``; what has none is one source, of the language ""."""
        return {lang: self._of(lang) for lang in self.langs} or {"": self}

    def _of(self, lang: str) -> TextSource:
        filled = {field: value.replace(LANG, lang) for field in BY_LANGUAGE if (value := getattr(self, field))}
        return self.model_copy(update={"langs": (lang,) if self.plugin else (), **filled})

    @property
    def plugin_parts(self) -> tuple[str, str]:
        """The file of the plugin, and its class."""
        file, _, name = (self.plugin or "").rpartition(":")
        return file, name

    @property
    def display_name(self) -> str:
        """As it stands in provenance: a dataset's id, a file's name (never its folder), or the bundled text's name."""
        if self.dataset:
            return self.dataset
        if self.plugin:
            return without_folders(self.plugin)
        return without_folders(self.file) if self.file else f"hubquant:{self.bundled}"

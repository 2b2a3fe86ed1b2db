"""The model card of a published repository: README.md with its front matter.

The same input gives the same bytes. What comes from other people's cards, file names and ids is data: it is escaped
for the place it goes to, and of foreign front matter only known keys of known shapes are inherited.
"""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from hubquant.hub.front_matter import Result, plain, write_front_matter
from hubquant.publish.checks import checks, llama_cpp_builds
from hubquant.publish.drawing import HOMES, Drawing, TextEncoder, address, programs
from hubquant.publish.in_library import snippet
from hubquant.publish.names import is_mistaken, is_sharded, pattern, preferred
from hubquant.publish.recommendation import MeasuredFile, measure_of
from hubquant.publish.table import COLUMNS, MEMORY, OF_FILES, RECOMMENDATION, TEXT_COLUMNS, by_text, table
from hubquant.publish.template import CardTemplate, Filters, fill
from hubquant.publish.usage import Usage, by_memory, per_thousand

HUB = "https://huggingface.co"
HOME = "https://pypi.org/project/hubquant/"
BUNDLED = "hubquant:"  # begins the names of texts that come with the package
OWN_TAGS = ("gguf", "quantized", "hubquant")
FOREIGN_TAGS_LEFT_OUT = {"safetensors", "pytorch", "tf", "jax", "transformers", "diffusers", "onnx"}
GATING = ("extra_gated_prompt", "extra_gated_heading", "extra_gated_description", "extra_gated_button_content")
RANKING = "text-ranking"
EMBEDDINGS = ("feature-extraction", "sentence-similarity")  # what the Hub calls the tasks of such models
MADE_WITH = "Made with hubquant "
LONGEST_TEXT = 20_000  # characters of an inherited text
MARKDOWN = re.compile(r"[\\`*\[\]!|~$#]|(?<![^\W_])_|_(?![^\W_])|^[-+=]")
SPACES = re.compile(r"[\s\x00-\x1f\x7f]+")
TOGETHER = re.compile(r"(?<=±) | (?=%)|(?<=\d) (?=[kMGT]?B$)")
SHORT = tuple(OF_FILES)[:3]  # file, type and size
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class CardText:
    """A text that was calibrated or evaluated on: a Hub dataset's id or another name, with its config and split."""

    name: str
    is_dataset: bool = False
    detail: str = ""


@dataclass(frozen=True)
class EarlierFile:
    """A file of an earlier run that is not comparable; ``differences`` say how it was made, in words."""

    measured: MeasuredFile
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """What a card tells. ``source`` is the front matter of the source model's card.

    ``reproduce`` is the one line that makes the repository again, with ``needs`` in the current folder: names of files
    that are not in it. ``repo_id`` and ``model_id`` are ``None`` for a local folder and a local model; ``base_models``
    are Hub ids. ``others`` are paths of files that nothing is known of,
    and ``projectors`` those that the model sees or hears with. ``calibration`` is empty where no imatrix was
    collected, ``evaluation`` where nothing was measured. ``imatrix``, ``plot``, and of pictures their ``grid`` and the
    ``curve`` over steps are paths in the repository; ``tokens_calibrated`` and ``tokens_scored`` count tokens.
    ``not_as_source`` says what the source model has or computes and the files do not. A model is run
    ``in_llamacpp_alone`` where transformers lacks its code. ``embeds`` tells an encoder, whose files give embeddings of
    texts, and ``ranks`` one whose files score pairs of them; a denoiser, whose files make pictures, has a ``drawing``,
    and what reads its prompts is a ``text_encoder``. ``mixes`` has by the name of a file with types of its own how many
    tensors of each.
    """

    model_name: str
    files: tuple[MeasuredFile, ...]
    reproduce: str
    version: str
    earlier: tuple[EarlierFile, ...] = ()
    others: tuple[str, ...] = ()
    projectors: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    model_id: str | None = None
    revision: str | None = None
    base_models: tuple[str, ...] = ()
    repo_id: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    imatrix: str | None = None
    calibration: tuple[CardText, ...] = ()
    tokens_calibrated: int = 0
    evaluation: tuple[CardText, ...] = ()
    tokens_scored: int = 0
    plot: str | None = None
    verified: bool = False
    not_as_source: tuple[str, ...] = ()
    in_llamacpp_alone: bool = False
    usage: Usage = field(default_factory=Usage)
    quantized_by: str | None = None
    embeds: bool = False
    ranks: bool = False
    drawing: Drawing | None = None
    text_encoder: TextEncoder | None = None
    grid: str | None = None
    curve: str | None = None
    mixes: Mapping[str, str] = field(default_factory=dict)


def render(card: Card, template: CardTemplate | None = None) -> str:
    """The text of README.md, by a user's ``template`` if there is one. Raises ``RecipeError`` where that one fails."""
    metadata = front_matter(card)
    filters: Filters = {
        "text": escape,
        "code": code,
        "shell": _shell,
        "literal": _literal,
        "of_repository": lambda path: address(str(card.repo_id), path),
        "reference": _reference,
        "fork": _fork,
        "snippet": lambda file: snippet(file, card.drawing, _pipeline(card)),
        "block": block,
    }
    body = fill(template, filters, {**_parts(card), "inherits_license": "license" in metadata}).strip()
    if not is_own(body):
        body += f"\n\n{MADE_WITH}{escape(card.version)}."
    return f"---\n{write_front_matter(metadata, results(card), card.model_name)}\n---\n\n{body}\n"


def is_own(text: str) -> bool:
    """Whether hubquant wrote a card, be it edited since."""
    return f"\n{MADE_WITH}" in text


def _parts(card: Card) -> dict[str, Any]:
    """What a template is made of."""
    portable = [file for file in card.files if file.is_for_llama_cpp]
    sure = [file for file in portable if not is_mistaken(file, portable)] or portable
    example = preferred(sure)
    whole = [file for file in sure if not is_sharded(file)]
    return {
        "card": card,
        "hub": HUB,
        "home": HOME,
        "source": _source(card),
        "account": _account(card),
        "table": rows(card.files),
        "earlier": rows([file.measured for file in card.earlier], [name for name in COLUMNS if name != RECOMMENDATION]),
        "by_text": _by_text(card),
        "text_columns": TEXT_COLUMNS,
        "memory": [[MEMORY, *rows([], SHORT)[0]], *([] if card.drawing or card.text_encoder else _by_memory(card))],
        "measure": measure_of(card.files).name,
        "programs": programs(portable),
        "homes": HOMES,
        "fidelity": next((file.fidelity for file in card.files if file.fidelity), None),
        "both_ways": any(file.with_imatrix is not None for file in card.files),
        "pipeline_of": _pipeline(card),
        "per_thousand": per_thousand(card.usage),
        "example": example,
        "options": _options(card),
        "similarity": next((file.similarity for file in card.files if file.similarity), None),
        # the Hub refuses files in several parts to Ollama: https://github.com/huggingface/hub-docs/issues/2702
        "for_ollama": example if example in whole else next(iter(whole), None),
        "include": code(pattern(example, [*card.files, *(each.measured for each in card.earlier)]))
        if example
        else None,
        "parts": [file for file in portable if is_sharded(file)],
        "speeds": next((file.speed for file in card.files if file.speed), None),
        "folders": [(file, file.library) for file in card.files if file.library],
        "mixes": [(file.type, card.mixes[file.type]) for file in card.files if file.type in card.mixes],
        "fork_only": [file for file in card.files if file.fork],
        "has_gguf": _has_gguf(card),
        "asked": " ".join(checks(card.files)),
        "builds": llama_cpp_builds(card.files),
        "in_llama_cpp": any(file.in_llamacpp for file in card.files),
    }


def _by_text(card: Card) -> list[list[str]]:
    """What each file's mean KLD is on each text that has a name; empty where none has."""
    if (made := by_text(card.files)) is None:
        return []
    return [[_unbroken(escape(cell)) for cell in row] for row in (made.columns, *made.rows)]


def _by_memory(card: Card) -> list[list[str]]:
    return [[memory, *rows([file], SHORT)[1]] for memory, file in by_memory(card.files, card.usage)]


def front_matter(card: Card) -> dict[str, Any]:
    """The metadata that the Hub reads, in a fixed order, without empty entries."""
    source = card.source
    bases = list(card.base_models) or ([card.model_id] if card.model_id else [])
    data = {
        "base_model": bases[0] if len(bases) == 1 else bases,
        "base_model_relation": "quantized" if bases else None,
        "quantized_by": card.quantized_by or _owner(card),
        "license": _names(source.get("license")),
        "license_name": _text(source.get("license_name")),
        "license_link": _license_link(card),
        "language": _names(["no" if item is False else item for item in _list(source.get("language"))]),
        "pipeline_tag": _text(source.get("pipeline_tag")) or _task(card),
        "library_name": "gguf" if _has_gguf(card) else "diffusers" if card.drawing else "transformers",
        "tags": _tags(card),
        "datasets": sorted({text.name for text in card.calibration if text.is_dataset}),
        **{key: _text(source.get(key)) for key in GATING},
        "extra_gated_fields": _form(source.get("extra_gated_fields")),
        "extra_gated_eu_disallowed": source.get("extra_gated_eu_disallowed") is True,
    }
    return {key: value for key, value in data.items() if value}


def _task(card: Card) -> str:
    embedding = RANKING if card.ranks else EMBEDDINGS[0]
    return card.drawing.tag if card.drawing else embedding if card.embeds else "text-generation"


def _options(card: Card) -> str:
    """Of llama-server, for what the files are for."""
    if card.ranks:
        return " --reranking"
    return " --embeddings" if card.embeds or card.source.get("pipeline_tag") in EMBEDDINGS else ""


def results(card: Card) -> list[Result]:
    """What was measured on a dataset of the Hub, for its older form of results, which takes any dataset."""
    if len(card.evaluation) != 1 or not card.evaluation[0].is_dataset:
        return []
    text = card.evaluation[0]
    dataset = f"{text.name} ({text.detail})" if text.detail else text.name
    return [
        Result(text.name, dataset, metric, f"{name}, {file.type}", value)
        for file in card.files
        if (measured := file.divergence)
        for metric, name, value in (
            ("perplexity", "perplexity", measured.ppl.ppl),
            ("kl-divergence", "mean KL divergence from the source model", measured.kld.mean),
        )
    ]


def rows(files: Sequence[MeasuredFile], columns: Sequence[str] = COLUMNS) -> list[list[str]]:
    """Header and rows of the table of files, each cell in Markdown."""
    made = table(files, columns)
    links = [link(file.file, _address(file.file)) for file in files]
    body = [[to, *(_unbroken(escape(cell)) for cell in row[1:])] for to, row in zip(links, made.rows, strict=True)]
    return [list(made.columns), *body]


def _unbroken(cell: str) -> str:
    """A number stays in one line with its unit, and an error with its sign, however narrow the column is."""
    return TOGETHER.sub("\N{NO-BREAK SPACE}", cell)


def escape(value: str) -> str:
    """``value`` as plain text in one line of Markdown."""
    return MARKDOWN.sub(r"\\\g<0>", html.escape(SPACES.sub(" ", value).strip(), quote=False))


def code(value: str) -> str:
    """``value`` for one line of a code block: without line breaks and backticks."""
    return SPACES.sub(" ", value).replace("`", "'").strip()


def block(value: str) -> str:
    """``value`` as a block of code, line by line as it is, but for control characters."""
    text = CONTROLS.sub("", value.replace("\r\n", "\n")).strip("\n")
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
    return f"{fence}text\n{text}\n{fence}"


def link(label: str, address: str) -> str:
    return f"[{escape(label)}]({address})"


def _source(card: Card) -> str:
    if card.model_id is None:
        bases = " and ".join(link(id, f"{HUB}/{quote(id)}") for id in card.base_models)
        return escape(card.model_name) + (f", which is based on {bases}," if bases else "")
    page = f"{HUB}/{quote(card.model_id)}"
    commit = f" at commit {link(card.revision[:12], f'{page}/tree/{quote(card.revision)}')}" if card.revision else ""
    return link(card.model_id, page) + commit


def _pipeline(card: Card) -> str:
    """What a program loads the rest of a pipeline from."""
    return card.model_id or next(iter(card.base_models), card.model_name)


def _owner(card: Card) -> str | None:
    return card.repo_id.split("/")[0] if card.repo_id and "/" in card.repo_id else None


def _account(card: Card) -> str | None:
    """Who made the files: a name, or a link to the account that the repository belongs to."""
    name, owner = card.quantized_by or _owner(card), _owner(card)
    return link(name, f"{HUB}/{quote(name)}") if name and name == owner else escape(name) if name else None


def _reference(text: CardText) -> str:
    if text.is_dataset:
        return link(text.name, f"{HUB}/datasets/{quote(text.name)}")
    return link(text.name, HOME) if text.name.startswith(BUNDLED) else escape(text.name)


def _fork(repository: str) -> str:
    return link(repository, f"https://github.com/{quote(repository)}")


def _shell(value: str) -> str:
    return shlex.quote(code(value))


def _literal(value: str) -> str:
    """A string of Python or JSON, in one line of a code block."""
    return json.dumps(code(value), ensure_ascii=False)


def _address(path: str) -> str:
    return "./" + quote(path)


def _tags(card: Card) -> list[str]:
    libraries = dict.fromkeys(file.library.backend for file in card.files if file.library)
    own = [*(OWN_TAGS if _has_gguf(card) else OWN_TAGS[1:]), *(["imatrix"] if card.imatrix else []), *libraries]
    foreign = [tag for tag in map(_text, _list(card.source.get("tags"))) if tag]
    return list(dict.fromkeys([*own, *(tag for tag in foreign if tag.lower() not in FOREIGN_TAGS_LEFT_OUT)]))


def _has_gguf(card: Card) -> bool:
    """Of those that it tells of; that of a folder alone may be without."""
    return not card.files or any(file.library is None for file in card.files)


def _license_link(card: Card) -> str | None:
    """A link of its own, or where the file of that name lies in the source repository."""
    text = _text(card.source.get("license_link"))
    if text is None or text.startswith(("https://", "http://")):
        return text
    return f"{HUB}/{card.model_id}/blob/{card.revision or 'main'}/{quote(text)}" if card.model_id else None


def _text(value: Any) -> str | None:
    return value[:LONGEST_TEXT] if isinstance(value, str) and value.strip() else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _names(value: Any) -> str | list[str] | None:
    """One name or several, as the source has it."""
    names = [text for text in map(_text, _list(value)) if text]
    return names if isinstance(value, list) and len(names) != 1 else next(iter(names), None)


def _form(value: Any) -> dict[str, Any] | None:
    fields = plain(value)
    return fields if isinstance(fields, dict) and len(str(fields)) <= LONGEST_TEXT else None

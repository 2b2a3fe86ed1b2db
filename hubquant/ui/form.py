"""The form beside a recipe: what it shows of one, and the recipe's text with what was changed in the form.

Nothing here knows of pages. What the form does not show stays in the text as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from hubquant.errors import RecipeError
from hubquant.recipe.load import LARGEST_RECIPE, parse_recipe, parse_yaml
from hubquant.recipe.references import model_reference
from hubquant.recipe.schema import ModelReference, Recipe
from hubquant.recipe.texts import TextSource

DEMO = "demo"
ORIGIN = "the recipe"
START = "model: {bundled: demo}\n"
Calibration = Literal["bundled", "dataset", "file", "none", "recipe"]
Mode = Literal["exact", "best"]
_DEFAULT = Recipe(model={"bundled": "demo"})
_SHOWN_OF_A_SOURCE = ("bundled", "dataset", "file", "config", "split", "field", "chat_template")


@dataclass(frozen=True)
class Form:
    """``model`` as it is typed, or "demo" for the bundled one; ``types`` by the names of their files.

    ``calibration`` is "recipe" where the text says more than the form can, and is then left as it stands. ``dataset``,
    ``config``, ``split``, ``field`` and ``file`` belong to the one source of text.
    """

    model: str = DEMO
    types: tuple[str, ...] = _DEFAULT.quantize.names
    mode: Mode = "best"
    calibration: Calibration = "bundled"
    dataset: str = ""
    config: str = ""
    split: str = "train"
    field: str = "text"
    file: str = ""
    chat_template: bool = False
    chunks: int = _DEFAULT.calibration.chunks
    evaluate: bool = True
    evaluate_chunks: int = _DEFAULT.evaluate.chunks
    to: str = ""
    private: bool = False


def read_form(text: str) -> Form:
    """What the form shows of a recipe. Raises ``RecipeError`` for one that could not be run."""
    return _form(parse_recipe(parse_text(text), ORIGIN))


def write_form(text: str, form: Form) -> str:
    """``text`` with all that ``form`` shows otherwise than the text says; the same text if that is nothing.

    Sections in which nothing changes keep their comments. Raises ``RecipeError`` if it would not be a recipe.
    """
    before = parse_text(text)
    shown = _form(parse_recipe(before, ORIGIN))
    after = deepcopy(before)
    _put_model(after, form, shown)
    _put_types(after, form, shown)
    _put_calibration(after, form, shown)
    for path, value, old, default in _values(form, shown):
        if value != old:
            _put(after, path, value if value != default else None)
    parse_recipe(after, ORIGIN)
    return _with_sections(text, before, after)


def parse_text(text: str) -> dict[str, Any]:
    """Plain data. Raises ``RecipeError``."""
    if len(text.encode()) > LARGEST_RECIPE:
        raise RecipeError(
            "the recipe is too large", why=f"a recipe is a page, and this one is over {LARGEST_RECIPE:,} B"
        )
    data = parse_yaml(text, ORIGIN)
    if data is None:
        raise RecipeError("the recipe is empty", hint="write at least  model: org/name")
    if not isinstance(data, dict):
        raise RecipeError("this is not a recipe", why="a recipe is a mapping of keys to values")
    return data


def display_model(model: ModelReference) -> str:
    """As it would be typed."""
    if model.id is not None:
        return model.id if model.revision == "main" else f"{model.id}@{model.revision}"
    return model.folder or model.file or DEMO


def _form(recipe: Recipe) -> Form:
    calibration, evaluate, publish = recipe.calibration, recipe.evaluate, recipe.publish
    kind = _kind(recipe)
    source = calibration.sources[0] if kind in ("dataset", "file", "bundled") else TextSource(bundled="calibration")
    return Form(
        model=display_model(recipe.model),
        types=recipe.quantize.names,
        mode=recipe.quantize.mode,
        calibration=kind,
        dataset=source.dataset or "",
        config=source.config or "",
        split=source.split,
        field=source.field,
        file=source.file or "",
        chat_template=source.chat_template,
        chunks=calibration.chunks,
        evaluate=not evaluate.skip,
        evaluate_chunks=evaluate.chunks,
        to=publish.to or "",
        private=publish.private,
    )


def _kind(recipe: Recipe) -> Calibration:
    if recipe.imatrix.skip:
        return "none"
    sources = recipe.calibration.sources
    if recipe.imatrix.given or len(sources) != 1:
        return "recipe"
    said = sources[0].model_dump(exclude_defaults=True)
    if said == {"bundled": "calibration"}:
        return "bundled"
    if not said.keys() <= set(_SHOWN_OF_A_SOURCE) or sources[0].bundled:
        return "recipe"
    return "dataset" if sources[0].dataset else "file"


def _put_model(data: dict[str, Any], form: Form, shown: Form) -> None:
    if form.model == shown.model:
        return
    typed = form.model.strip()
    if not typed:
        raise RecipeError("no model is named", hint="pick one, or type its name, such as Qwen/Qwen3-0.6B")
    data["model"] = {"bundled": "demo"} if typed == DEMO else model_reference(typed)


def _put_types(data: dict[str, Any], form: Form, shown: Form) -> None:
    if form.types == shown.types:
        return
    if not form.types:
        raise RecipeError("no type is chosen", hint="choose at least one, such as Q4_K_M")
    said = _at(data, ("quantize", "types"))
    named = {entry.get("name"): entry for entry in said or () if isinstance(entry, dict)}
    _put(data, ("quantize", "types"), [named.get(name, name) for name in form.types])


def _put_calibration(data: dict[str, Any], form: Form, shown: Form) -> None:
    fields = ("calibration", "dataset", "config", "split", "field", "file", "chat_template")
    if form.calibration == "recipe" or all(getattr(form, name) == getattr(shown, name) for name in fields):
        return
    for name in ("skip", "file", "files"):
        _put(data, ("imatrix", name), None)
    if form.calibration == "none":
        for name in ("include_weights", "exclude_weights"):
            _put(data, ("imatrix", name), None)
        _put(data, ("imatrix", "skip"), True)
        return
    _put(data, ("calibration", "sources"), None if form.calibration == "bundled" else [_source(form)])


def _source(form: Form) -> dict[str, Any]:
    if form.calibration == "dataset":
        given: dict[str, Any] = {"dataset": form.dataset.strip(), "config": form.config.strip()}
        given |= {"split": form.split.strip()}
    else:
        given = {"file": form.file}
    given |= {"field": form.field.strip(), "chat_template": form.chat_template}
    defaults = {"config": "", "split": "train", "field": "text", "chat_template": False}
    return {name: value for name, value in given.items() if defaults.get(name) not in (value,)}


def _values(form: Form, shown: Form) -> Iterator[tuple[tuple[str, str], Any, Any, Any]]:
    """Of each plain field: where it stands in a recipe, what the form says, what the text says, and the default."""
    default = Form()
    paths = {
        "mode": ("quantize", "mode"),
        "chunks": ("calibration", "chunks"),
        "evaluate_chunks": ("evaluate", "chunks"),
        "to": ("publish", "to"),
        "private": ("publish", "private"),
    }
    for name, path in paths.items():
        value = getattr(form, name)
        value = value.strip() if isinstance(value, str) else value
        yield path, value, getattr(shown, name), getattr(default, name)
    yield ("evaluate", "skip"), not form.evaluate, not shown.evaluate, False


def _at(data: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _put(data: dict[str, Any], path: tuple[str, str], value: Any) -> None:
    """Put ``value`` there; None removes it, and the section that it leaves empty."""
    section, name = path
    found = dict(data.get(section) or {})
    if value is None:
        found.pop(name, None)
    else:
        found[name] = value
    if found:
        data[section] = found
    else:
        data.pop(section, None)


def _with_sections(text: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    """``text`` with other sections where ``after`` differs from ``before``; all anew where they do not stand apart."""
    if before == after:
        return text
    found = _replaced(text, before, after)
    try:
        if found is not None and parse_yaml(found, ORIGIN) == after:
            return found
    except RecipeError:
        pass
    return "".join(_section(key, value) for key, value in after.items())


def _replaced(text: str, before: dict[str, Any], after: dict[str, Any]) -> str | None:
    node = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return None
    changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    result, end = "", 0
    for key, value in node.value:
        if key.value not in changed:
            continue
        result += text[end : key.start_mark.index]
        end = value.end_mark.index
        old = text[key.start_mark.index : end]
        if key.value in after:
            result += _section(key.value, after[key.value]) + _comments_after(old)
        else:
            result += _comments_after(old)
        if not old.endswith("\n") and text[end : end + 1] == "\n":
            end += 1
    result += text[end:]
    added = "".join(_section(key, value) for key, value in after.items() if key not in before)
    return result + ("" if result.endswith("\n") or not result else "\n") + added if added else result


def _comments_after(section: str) -> str:
    """The blank lines and comments at its end, which belong to what follows."""
    lines = section.splitlines(keepends=True)
    first = len(lines)
    while first > 1 and (not lines[first - 1].strip() or lines[first - 1].startswith("#")):
        first -= 1
    return "".join(lines[first:])


def _section(key: str, value: Any) -> str:
    return yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=1 << 20)

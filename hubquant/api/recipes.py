"""Plan and run a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubquant.api.arguments import (
    Names,
    Offload,
    Overrides,
    Types,
    as_overrides,
    given_fields,
    listed,
    listed_types,
    open_store,
    quietly,
    read_recipe,
)
from hubquant.bars import Bars
from hubquant.errors import UserError
from hubquant.mix import check_recipe
from hubquant.recipe import Override, Recipe, matrices_instead

if TYPE_CHECKING:
    from hubquant.devices import Device
    from hubquant.pipeline.plan import Plan
    from hubquant.publish.report import Report

_OF_REPOSITORY = tuple(f"publish.{name}" for name in ("private", "branch", "create_pr", "commit_message", "prune"))


def plan(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    types: Types | None = None,
    push: str | None = None,
    mode: Literal["exact", "best"] | None = None,
    imatrix: Names | None = None,
    private: bool | None = None,
    revision: str | None = None,
    component: str | None = None,
    merge: str | None = None,
    pre_tokenizer: str | None = None,
    no_mtp: bool = False,
    offload: Offload | None = None,
    mmproj: Names | None = None,
    no_eval: bool = False,
    i_have_permission: bool = False,
    overrides: Overrides = (),
    out: Path | str | None = None,
    store: Path | str | None = None,
    fresh: bool = False,
    device: Device = "auto",
    progress: Bars = "auto",
) -> Plan:
    """What ``run`` would do: steps, types, exact sizes, memory, disk and downloads. ``print(plan)`` shows it.

    ``recipe`` is a ``Recipe``, plain data of one, the path of one, a Hub id, a model folder, a GGUF file,
    ``hub:org/repo``, "quickstart" or "default".

    Some fields of it have a keyword of their own: ``types`` (["Q8_0", "Q4_K_M"]), ``push`` (the repository to publish
    to), ``mode``, ``imatrix`` (one or more matrices to use instead of a collected one), ``private``, ``revision``,
    ``component`` (of a diffusers pipeline, such as text_encoder_2), ``merge`` (of a LoRA adapter, the base that it is
    read in), ``pre_tokenizer``, ``no_mtp`` (leave out layers that predict further tokens), ``offload``, ``mmproj``
    (types of the file that a multimodal model sees or hears with; [] for none), ``no_eval`` (measure nothing) and
    ``i_have_permission`` (to publish against a licence without derivatives). ``overrides`` reach every field, as
    {"calibration.chunks": 100} or ["calibration.chunks=100"].

    ``out`` is the output folder, ``<model>-GGUF`` by default; ``store`` is where what was made is kept, by default in
    ``$HUBQUANT_HOME``, and with ``fresh`` nothing there counts as done; models run on ``device``. ``progress`` is
    "auto" (bars on a terminal and in a notebook), None (silence), or an object with the methods of
    ``hubquant.engine.progress.Progress``.

    Raises ``UserError`` for everything that would fail later and can be known now.
    """
    changed = {
        "types": ("quantize.types", None if types is None else listed_types(types)),
        "push": ("publish.to", push),
        "mode": ("quantize.mode", mode),
        "private": ("publish.private", private),
        "revision": ("model.revision", revision),
        "component": ("model.component", component),
        "merge": ("model.merge", merge),
        "pre_tokenizer": ("convert.pre_tokenizer", pre_tokenizer),
        "no_mtp": ("convert.no_mtp", no_mtp or None),
        "offload": ("imatrix.offload", offload),
        "mmproj": ("convert.mmproj", None if mmproj is None else listed(mmproj)),
        "no_eval": ("evaluate.skip", no_eval or None),
        "i_have_permission": ("publish.i_have_permission", i_have_permission or None),
    }
    matrices = [] if imatrix is None else matrices_instead(listed(imatrix), "imatrix")
    given = [*given_fields(changed), *matrices, *as_overrides(overrides)]
    checked = check_recipe(read_recipe(recipe, given))
    _check_published(checked, given)
    with quietly(progress) as seen:  # after mistakes in the recipe are found: torch is imported now
        from hubquant.pipeline.plan import make_plan

        folder = None if out is None else Path(out)
        return make_plan(checked, folder, open_store(store), seen, device, fresh=fresh)


def run(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    types: Types | None = None,
    push: str | None = None,
    mode: Literal["exact", "best"] | None = None,
    imatrix: Names | None = None,
    private: bool | None = None,
    revision: str | None = None,
    component: str | None = None,
    merge: str | None = None,
    pre_tokenizer: str | None = None,
    no_mtp: bool = False,
    offload: Offload | None = None,
    mmproj: Names | None = None,
    no_eval: bool = False,
    i_have_permission: bool = False,
    branch: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    prune: bool = False,
    overrides: Overrides = (),
    out: Path | str | None = None,
    store: Path | str | None = None,
    fresh: bool = False,
    device: Device = "auto",
    progress: Bars = "auto",
) -> Report:
    """Make, measure, verify and publish what ``recipe`` asks for, going on from what is there unless ``fresh``.

    Arguments as for ``plan``, and how it is published: to a ``branch``, or with ``create_pr`` as a pull request; under
    a ``commit_message``; with ``prune``, types that are no longer asked for are removed. ``print(report)`` shows what
    was measured, and a notebook draws it. Raises ``HubquantError``.
    """
    published = {
        "branch": ("publish.branch", branch),
        "create_pr": ("publish.create_pr", create_pr or None),
        "commit_message": ("publish.commit_message", commit_message),
        "prune": ("publish.prune", prune or None),
    }
    made = plan(
        recipe,
        types=types,
        push=push,
        mode=mode,
        imatrix=imatrix,
        private=private,
        revision=revision,
        component=component,
        merge=merge,
        pre_tokenizer=pre_tokenizer,
        no_mtp=no_mtp,
        offload=offload,
        mmproj=mmproj,
        no_eval=no_eval,
        i_have_permission=i_have_permission,
        overrides=[*given_fields(published), *as_overrides(overrides)],
        out=out,
        store=store,
        fresh=fresh,
        device=device,
        progress=progress,
    )
    with quietly(progress) as seen:
        from hubquant.pipeline.run import execute

        return execute(made, open_store(store), seen, fresh=fresh)


def _check_published(recipe: Recipe, given: Sequence[str | Override]) -> None:
    """Raises ``UserError`` where what was typed is about a repository, and there is none."""
    for each in given if recipe.publish.to is None else ():
        if isinstance(each, Override) and each.path in _OF_REPOSITORY and each.value:
            hint = "add --push me/NAME-GGUF" if each.typed.startswith("-") else "pass push as well"
            raise UserError(f"{each.typed} is about a repository, and nothing is published", hint=hint)

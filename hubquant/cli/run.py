"""``hubquant run`` and ``hubquant plan``."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hubquant.cli import pushing
from hubquant.cli.job import DeviceOption, DryRunOption, StoreOption, ThreadsOption
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.pushing import BranchOption, CreatePrOption, MessageOption, PermissionOption, PruneOption
from hubquant.cli.settings import type_names
from hubquant.errors import UserError

if TYPE_CHECKING:
    from hubquant.devices import Device
    from hubquant.recipe import Override

_COMPONENT = "{component}"
RecipeArgument = Annotated[
    str,
    typer.Argument(metavar="RECIPE|MODEL", help="A recipe.yaml, Hub id, folder, GGUF file, hub:org/repo, quickstart."),
]
TypesOption = Annotated[
    list[str] | None, typer.Option("--types", "-t", help="File types, separated by commas: Q8_0,Q4_K_M. Repeatable.")
]
PushOption = Annotated[str | None, typer.Option("--push", help="The Hub repository to publish to.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a field: quantize.mode=exact. Repeatable.")
]
PreTokenizerOption = Annotated[
    str | None, typer.Option("--pre-tokenizer", help="llama.cpp's name of the pre-tokenizer, if it is not recognised.")
]
NoMtpOption = Annotated[
    bool,
    typer.Option("--no-mtp", "--no-nextn", help="Leave out layers that predict further tokens, to draft with."),
]
ModeOption = Annotated[
    Literal["exact", "best"] | None, typer.Option("--mode", help="best: the least error; exact: llama.cpp's bytes.")
]
ImatrixOption = Annotated[
    list[str] | None,
    typer.Option("--imatrix", help="The importance matrix, a file or hub:org/repo/file. Repeat it to add several up."),
]
PrivateOption = Annotated[bool, typer.Option("--private", help="Make the repository of --push a private one.")]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", help="Of a model on the Hub: a branch, tag or commit.")
]
ComponentOption = Annotated[
    str | None,
    typer.Option(
        "--component",
        "--components",
        help="Of a diffusers pipeline, such as text_encoder_2 (default: its denoiser); several between commas.",
    ),
]
OffloadOption = Annotated[
    Literal["auto", "none", "cpu", "disk", "stream"] | None,
    typer.Option("--offload", help="For models larger than memory; stream has one block in memory at a time."),
]
MmprojOption = Annotated[
    str | None,
    typer.Option(
        "--mmproj", help="Types of the file that a multimodal model sees or hears with (default: F16), or none."
    ),
]
MergeOption = Annotated[
    str | None,
    typer.Option("--merge", metavar="BASE", help="Of a LoRA adapter: read this base with it, a Hub id or a folder."),
]
TargetOption = Annotated[
    str | None,
    typer.Option("--target", metavar="MODEL", help="Of a drafter: the model it drafts for, a Hub id or a folder."),
]
AllowPickleOption = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read weights from pytorch_model.bin where there are no safetensors."),
]
NoEvalOption = Annotated[bool, typer.Option("--no-eval", help="Measure nothing.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="The output folder (default: <model>-GGUF).")]


def run(
    recipe: RecipeArgument,
    types: TypesOption = None,
    push: PushOption = None,
    set: SetOption = None,
    pre_tokenizer: PreTokenizerOption = None,
    no_mtp: NoMtpOption = False,
    mode: ModeOption = None,
    imatrix: ImatrixOption = None,
    private: PrivateOption = False,
    revision: RevisionOption = None,
    component: ComponentOption = None,
    merge: MergeOption = None,
    offload: OffloadOption = None,
    mmproj: MmprojOption = None,
    no_eval: NoEvalOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    out: OutOption = None,
    store: StoreOption = None,
    branch: BranchOption = None,
    create_pr: CreatePrOption = False,
    commit_message: MessageOption = None,
    prune: PruneOption = False,
    i_have_permission: PermissionOption = False,
    dry_run: DryRunOption = False,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on from what is there, or start over.")] = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take a model to measured, verified GGUF files, and publish them."""
    from hubquant.api import run as run_recipe

    output, failed = Output(as_json=as_json, quiet=quiet), False
    for name, repository, folder in _components(component, push, out):
        overrides = [
            *pushing.overrides(branch, create_pr, commit_message, prune, i_have_permission),
            *_overrides(
                set or [],
                types=types,
                imatrix=imatrix,
                flags=_flags(
                    repository, pre_tokenizer, no_mtp, mode, private, revision, name, merge, offload, mmproj, no_eval
                ),
            ),
        ]
        if dry_run:
            _show_plan(recipe, overrides, folder, store, device, threads, output, fresh=not resume)
            continue
        _use_threads(threads)
        report = run_recipe(
            recipe,
            overrides=overrides,
            out=folder,
            store=store,
            fresh=not resume,
            device=device,
            progress=output.progress(),
        )
        output.data(report.as_dict(), report.text)
        failed |= bool(report.failed_gates)
    if failed:
        raise typer.Exit(1)


def plan(
    recipe: RecipeArgument,
    types: TypesOption = None,
    push: PushOption = None,
    set: SetOption = None,
    pre_tokenizer: PreTokenizerOption = None,
    no_mtp: NoMtpOption = False,
    mode: ModeOption = None,
    imatrix: ImatrixOption = None,
    private: PrivateOption = False,
    revision: RevisionOption = None,
    component: ComponentOption = None,
    merge: MergeOption = None,
    offload: OffloadOption = None,
    mmproj: MmprojOption = None,
    no_eval: NoEvalOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    out: OutOption = None,
    store: StoreOption = None,
    i_have_permission: PermissionOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show the steps, types, sizes, memory, disk and downloads of a run, and do nothing."""
    output = Output(as_json=as_json, quiet=quiet)
    permission = pushing.overrides(None, False, None, False, i_have_permission)
    for name, repository, folder in _components(component, push, out):
        overrides = _overrides(
            set or [],
            types=types,
            imatrix=imatrix,
            flags=_flags(
                repository, pre_tokenizer, no_mtp, mode, private, revision, name, merge, offload, mmproj, no_eval
            ),
        )
        _show_plan(recipe, [*permission, *overrides], folder, store, device, threads, output)


def _components(
    named: str | None, push: str | None, out: Path | None
) -> Iterator[tuple[str | None, str | None, Path | None]]:
    """Each component that is asked for, and where its files go: several have a repository and a folder each."""
    names = [name for part in (named or "").split(",") if (name := part.strip())]
    if len(names) < 2:
        yield named, push, out
        return
    if push is not None and _COMPONENT not in push:
        raise UserError(
            f"{push} is one repository, and {len(names)} components are asked for",
            why="each has a card of its own",
            hint=f"write {_COMPONENT} in it: --push me/NAME-{_COMPONENT}-GGUF",
        )
    for name in names:
        yield name, push and push.replace(_COMPONENT, name), out and out / name


def _overrides(
    given: Sequence[str],
    *,
    types: list[str] | None,
    imatrix: list[str] | None,
    flags: Mapping[str, tuple[str, Any]],
) -> list[str | Override]:
    """What the ``flags`` say of fields of the recipe, by their names, and then what is ``given`` by --set."""
    from hubquant.recipe import Override, matrices_instead

    named = {"--types": ("quantize.types", type_names(types, "--types", named=True) if types else None), **flags}
    found = [Override(path, value, flag) for flag, (path, value) in named.items() if value or value == []]
    matrices = matrices_instead(imatrix, "--imatrix") if imatrix else []
    return [*found, *matrices, *given]


def _flags(
    push: str | None,
    pre_tokenizer: str | None,
    no_mtp: bool,
    mode: str | None,
    private: bool,
    revision: str | None,
    component: str | None,
    merge: str | None,
    offload: str | None,
    mmproj: str | None,
    no_eval: bool,
) -> Mapping[str, tuple[str, Any]]:
    """The fields that have flags of their own in ``run`` and ``plan``."""
    return {
        "--push": ("publish.to", push),
        "--pre-tokenizer": ("convert.pre_tokenizer", pre_tokenizer),
        "--no-mtp": ("convert.no_mtp", no_mtp),
        "--mode": ("quantize.mode", mode),
        "--private": ("publish.private", private),
        "--revision": ("model.revision", revision),
        "--component": ("model.component", component),
        "--merge": ("model.merge", merge),
        "--offload": ("imatrix.offload", offload),
        "--mmproj": ("convert.mmproj", None if mmproj is None else _projector_types(mmproj)),
        "--no-eval": ("evaluate.skip", no_eval),
    }


def _projector_types(text: str) -> list[str]:
    return [] if text.lower() == "none" else [type.upper() for part in text.split(",") if (type := part.strip())]


def _show_plan(
    recipe: str,
    overrides: list[str | Override],
    out: Path | None,
    store: Path | None,
    device: Device,
    threads: int | None,
    output: Output,
    *,
    fresh: bool = False,
) -> None:
    from hubquant.api import plan as plan_recipe

    _use_threads(threads)
    with _uncollected():
        made = plan_recipe(
            recipe, overrides=overrides, out=out, store=store, fresh=fresh, device=device, progress=output.progress()
        )
    output.data(made.as_dict(), lambda: str(made))


@contextmanager
def _uncollected() -> Iterator[None]:
    """A plan reads metadata, and most of its time is that of imports: what these make stays, and looking through it
    again and again takes a sixth of that."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _use_threads(n: int | None) -> None:
    if n is not None:
        from hubquant.commands.flags import use_threads

        use_threads(n)

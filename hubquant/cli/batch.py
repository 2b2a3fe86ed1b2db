"""``hubquant batch`` and ``hubquant watch``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated

import typer

from hubquant.cli import pushing
from hubquant.cli.job import DryRunOption, StoreOption
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.pushing import BranchOption, CreatePrOption, MessageOption, PruneOption
from hubquant.cli.settings import type_names
from hubquant.errors import HubquantError, UserError
from hubquant.printable import plain
from hubquant.units import counted, duration, size

if TYPE_CHECKING:
    from hubquant.jobs.batch import Batch, BatchResult, Status
    from hubquant.jobs.models import NamedModel
    from hubquant.recipe import Override

FOLDER = "{model}-GGUF"

RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", "-r", help="The recipe of all models, a file or hub:org/repo; its model is not used."),
]
TypesOption = Annotated[
    list[str] | None, typer.Option("--types", "-t", help="File types, separated by commas: Q8_0,Q4_K_M. Repeatable.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a field: quantize.mode=exact. Repeatable.")
]
PushOption = Annotated[
    str | None, typer.Option("--push", help="The repository of each model: 'me/{model}-GGUF', 'me/{org}_{model}-GGUF'.")
]
OutOption = Annotated[
    str, typer.Option("--out", "-o", help="A folder for the output folders, or their name with {model} and {org}.")
]
StateOption = Annotated[
    Path | None, typer.Option("--state", help="Where it is remembered what is done (default: in $HUBQUANT_HOME).")
]
CollectionOption = Annotated[
    str | None,
    typer.Option(
        "--add-to-collection", help="A slug, or a title of yours or org/title: what is published stands there."
    ),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="At most so many models of the Hub, those changed last first.")
]


def batch(
    models: Annotated[
        Path | None,
        typer.Argument(metavar="MODELS.txt", help="A model a line: id[@revision] or path, and its repository."),
    ] = None,
    author: Annotated[
        str | None, typer.Option("--author", help="The models of this account instead of a file.")
    ] = None,
    search: Annotated[str | None, typer.Option("--search", help="Those whose name holds this text.")] = None,
    collection: Annotated[str | None, typer.Option("--collection", help="Those of this collection of the Hub.")] = None,
    limit: LimitOption = None,
    recipe: RecipeOption = None,
    types: TypesOption = None,
    set: SetOption = None,
    push: PushOption = None,
    branch: BranchOption = None,
    create_pr: CreatePrOption = False,
    commit_message: MessageOption = None,
    prune: PruneOption = False,
    add_to_collection: CollectionOption = None,
    out: OutOption = FOLDER,
    state: StateOption = None,
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a recipe for many models, one after the other. The same line goes on; what failed is tried again."""
    output = Output(as_json=as_json, quiet=quiet)
    _check_collection(add_to_collection, push)
    overrides = _overrides(types, pushing.overrides(branch, create_pr, commit_message, prune), set)
    lines = _lines(models, author, search, collection, limit)
    made = _batch(lines, recipe, overrides, push, out, state, store)
    results = made.plan(output.progress()) if dry_run else made.carry_out(output.progress())
    failed = _finish(results, None if dry_run else add_to_collection, output)
    if failed:
        raise typer.Exit(1)


def watch(
    author: Annotated[str, typer.Argument(metavar="ORG", help="The account of the Hub whose models are watched.")],
    search: Annotated[str | None, typer.Option("--search", help="Those whose name holds this text.")] = None,
    limit: LimitOption = None,
    recipe: RecipeOption = None,
    types: TypesOption = None,
    set: SetOption = None,
    push: PushOption = None,
    branch: BranchOption = None,
    create_pr: CreatePrOption = False,
    commit_message: MessageOption = None,
    prune: PruneOption = False,
    add_to_collection: CollectionOption = None,
    out: OutOption = FOLDER,
    state: StateOption = None,
    store: StoreOption = None,
    once: Annotated[bool, typer.Option("--once", help="Look once and end, for cron.")] = False,
    every: Annotated[str, typer.Option("--every", help="How long to wait before looking again: 30m, 6h.")] = "1h",
    from_now: Annotated[
        bool, typer.Option("--from-now", help="What is there at the first look is left alone until it changes.")
    ] = False,
    webhook: Annotated[
        bool,
        typer.Option("--webhook", help="Look too when a webhook of the Hub brings the secret in $WEBHOOK_SECRET."),
    ] = False,
    host: Annotated[
        str | None, typer.Option("--host", help="The address on which webhooks are taken (default: 127.0.0.1).")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="The port for webhooks (default: 7860).")
    ] = None,
    go: Annotated[
        bool, typer.Option("--go/--dry-run", help="Make and publish, or show once what would be done.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make and publish every new model of an account, and every model with a new commit. Without --go it only plans."""
    from hubquant.commands.flags import parse_age
    from hubquant.jobs.batch import OF_BEFORE

    output, wait = Output(as_json=as_json, quiet=quiet), parse_age(every, "--every 1h")
    _check_collection(add_to_collection, push)
    _check_webhook(webhook, host, port, looks_once=once or not go)
    overrides = _overrides(types, pushing.overrides(branch, create_pr, commit_message, prune), set)
    with ExitStack() as stack:
        pause: Callable[[float], object] = sleep
        if webhook:
            pause = _take_webhooks(stack, author, host, port, output)
        while True:
            results: list[BatchResult] = []
            progress, failed = output.progress(), False
            try:
                lines = _lines(None, author, search, None, limit)
                made = _batch(lines, recipe, overrides, push, out, state, store, again=False)
                if not go:
                    results = made.plan(progress)
                elif from_now and not made.state.exists():
                    results = made.leave_alone(progress)
                else:
                    results = made.carry_out(progress)
            except UserError:
                raise
            except HubquantError as error:
                if once or not go:
                    raise
                progress.note(str(error))
            if not (once or not go):
                results = [each for each in results if each.status not in OF_BEFORE]
            if results or once or not go:
                failed = _finish(results, add_to_collection if go else None, output)
            if once or not go:
                break
            pause(wait)
    if failed:
        raise typer.Exit(1)


def _overrides(types: list[str] | None, flags: Sequence[Override], given: list[str] | None) -> list[str | Override]:
    from hubquant.recipe import Override

    of_types = [Override("quantize.types", type_names(types, "--types", named=True), "--types")] if types else []
    return [*of_types, *flags, *(given or [])]


def _lines(
    models: Path | None, author: str | None, search: str | None, collection: str | None, limit: int | None
) -> list[NamedModel]:
    """Raises ``UserError`` where it is not told which models, or told twice."""
    from hubquant.jobs.models import NamedModel, read_lines

    told = [models is not None, author is not None or search is not None, collection is not None]
    if sum(told) != 1:
        raise UserError(
            "one list of models is needed" if not any(told) else "the models are told twice",
            hint="name a file with one model a line, or --author and --search, or --collection",
        )
    if models is not None:
        return read_lines(models)
    from hubquant.hub.listing import collection_models, list_models

    if collection is not None:
        return [NamedModel(id) for id in collection_models(collection)[:limit]]
    return [NamedModel(id) for id in list_models(author, search, limit=limit)]


def _batch(
    lines: Sequence[NamedModel],
    recipe: str | None,
    overrides: Sequence[str | Override],
    push: str | None,
    out: str,
    state: Path | None,
    store: Path | None,
    *,
    again: bool = True,
) -> Batch:
    from hubquant.engine.store import Store
    from hubquant.jobs.batch import Batch, common_recipe
    from hubquant.jobs.models import default_state, entries

    queue = entries(lines, out, push)
    common = common_recipe(recipe, overrides, queue)
    return Batch(queue, common, state or default_state(out), Store(store), again)


def _check_collection(collection: str | None, push: str | None) -> None:
    if collection is not None and push is None:
        raise UserError("--add-to-collection needs --push", why="only what is published stands in a collection")


def _check_webhook(webhook: bool, host: str | None, port: int | None, *, looks_once: bool) -> None:
    if not webhook and (host is not None or port is not None):
        raise UserError("--host and --port need --webhook", why="nothing else is served")
    if webhook and looks_once:
        raise UserError("--webhook needs --go, and no --once", why="watch would look once and end")


def _take_webhooks(
    stack: ExitStack, author: str, host: str | None, port: int | None, output: Output
) -> Callable[[float], object]:
    """Serve until ``stack`` is left; a pause that ends when a webhook comes."""
    from hubquant.hub.webhooks import PATH, PORT, served

    host, port = host or "127.0.0.1", port or PORT
    webhooks = stack.enter_context(served(author, host, port))
    output.progress().note(f"webhooks are taken at http://{host}:{port}{PATH}")
    return webhooks.wait


def _finish(results: Sequence[BatchResult], collection: str | None, output: Output) -> bool:
    """Print what was done; whether anything failed."""
    url, problem = None, None
    if collection is not None and (published := [each.record.to for each in results if each.record.url]):
        from hubquant.hub.collections import add_to_collection

        try:
            url = add_to_collection(collection, [to for to in published if to is not None])
        except HubquantError as error:  # what is published is told first
            problem = error
    count = Counter(each.status for each in results)
    value = {"models": [each.as_dict() for each in results], "count": dict(count), "collection": url}
    output.data(value, lambda: _text(results, count, url))
    if problem is not None:
        output.error(problem)
    return bool(count["failed"] or problem)


def _text(results: Sequence[BatchResult], count: Mapping[Status, int], collection: str | None) -> str:
    width = max((len(plain(each.record.model)) for each in results), default=0)
    lines = [f"{plain(each.record.model):<{width}}  {each.status:<11}  {_detail(each)}".rstrip() for each in results]
    lines += ["", ", ".join(f"{number} {status}" for status, number in count.items()) or "no models"]
    if collection is not None:
        lines.append(f"collection {collection}")
    return "\n".join(lines)


def _detail(result: BatchResult) -> str:
    record = result.record
    if record.error is not None:
        return plain(record.error)
    where = record.url or (result.status == "planned" and record.to) or str(result.out)
    files = f"{counted(len(record.files), 'file')}, {size(sum(record.files.values()))}" if record.files else ""
    took = duration(max(1, record.seconds)) if result.status == "done" else ""
    return "  ".join(part for part in (files, took, plain(where)) if part)

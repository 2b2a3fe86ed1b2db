"""A plan as text and as HTML: its steps, files, sizes and costs."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from hubquant.printable import plain
from hubquant.publish.html import html_table, paragraphs
from hubquant.publish.table import Table
from hubquant.units import duration, number, size

if TYPE_CHECKING:
    from hubquant.backends.folder import FolderPlan
    from hubquant.backends.gguf.files import FilePlan
    from hubquant.engine.schedule import Estimate, Step
    from hubquant.pipeline.budgets import Chosen
    from hubquant.pipeline.plan import Plan

WIDTH = 80  # columns
INDENT = " " * 18


def plan_text(plan: Plan) -> str:
    lines = [
        title(plan),
        "",
        *step_lines(plan.steps),
        "",
        *file_lines([*plan.files, *plan.work.projectors], plan.work.folders),
        *choice_lines(plan.work.chosen),
        "",
        *([] if plan.work.component.denoises else [f"tokenizer {plan.work.checked.tokenizer}"]),
        *estimate_lines(plan.estimate),
        f"output    {plain(str(plan.output))}",
        *(f"note: {plain(note)}" for note in plan.notes),
    ]
    return "\n".join(lines)


def file_lines(files: Iterable[FilePlan], folders: Iterable[FolderPlan] = ()) -> Iterator[str]:
    """A table of sizes and types."""
    yield f"{'size':>8} {'bpw':>7}  file, and the types of its tensors"
    for file in files:
        yield f"{size(file.size):>8} {file.bpw:>7.3f}  {plain(file.name)}"
        yield from textwrap.wrap(count_types(file.types), WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
    for folder in folders:
        yield f"{'~' + size(folder.size):>8} {folder.bpw:>7.3f}  {plain(folder.name)}/"


def choice_lines(chosen: Iterable[Chosen]) -> Iterator[str]:
    """What is expected of files whose size is given, by what, and of others around it."""
    for each in chosen:
        if each.sum is None:
            continue
        yield ""
        sure = "" if each.correlation is None else f" (estimates correlate with measurements by {each.correlation:.2f})"
        yield f"{each.budget}: mean KLD of about {number(each.sum)} expected{sure}"
        yield f"{'KLD':>8} {'tensors':>7}  type"
        for type, (n_tensors, kld) in each.by_type.items():
            yield f"{number(kld, 2):>8} {n_tensors:>7}  {type}"
        if each.unpinned is not None:
            yield f"{number(each.unpinned)} expected without the types that the recipe gives to single tensors"
        if each.frontier:
            around = ", ".join(f"{number(kld)} at {size(n_bytes)}" for n_bytes, kld in each.frontier.items())
            yield f"other sizes: {around}"


def plan_html(plan: Plan) -> str:
    """For a notebook."""
    shown = [*plan.files, *plan.work.projectors]
    files = [(file.name, size(file.size), f"{file.bpw:.3f}", count_types(file.types)) for file in shown]
    files += [(f"{each.name}/", f"~{size(each.size)}", f"{each.bpw:.3f}", each.label) for each in plan.work.folders]
    steps = [(step.name, f"{step.detail}{' (done before)' if step.done else ''}".strip()) for step in plan.steps]
    chosen = [
        (each.label, type, str(n_tensors), number(kld, 2))
        for each in plan.work.chosen
        if each.sum is not None
        for type, (n_tensors, kld) in each.by_type.items()
    ]
    expected = Table(("File", "Type", "Tensors", "KLD expected"), tuple(chosen))
    return "".join(
        [
            paragraphs([title(plan)]),
            html_table(Table(("File", "Size", "bpw", "Tensors"), tuple(files)), ("File", "Tensors")),
            *([html_table(expected, ("File", "Type"))] if chosen else []),
            html_table(Table(("Step", "What"), tuple(steps)), ("Step", "What")),
            html_table(Table(("It takes", ""), tuple(costs(plan.estimate).items())), ("It takes", "")),
            paragraphs([f"files in {plan.output}", *(f"note: {note}" for note in plan.notes)]),
        ]
    )


def title(plan: Plan) -> str:
    model = plan.work.component
    return f"{plain(plan.source.name)}  {model.conversion.architecture}, {model.n_parameters / 1e6:.1f} M weights"


def count_types(types: Mapping[str, str]) -> str:
    """ "2 F32, 1 Q6_K" of the type of each tensor."""
    return ", ".join(f"{count} {name}" for name, count in Counter(types.values()).most_common())


def step_lines(steps: Iterable[Step]) -> list[str]:
    return [f"{step.name:>10}  {plain(step.detail)}{' (done before)' if step.done else ''}".rstrip() for step in steps]


def estimate_lines(estimate: Estimate) -> list[str]:
    return [f"{name:<9} {value}" for name, value in costs(estimate).items()]


def costs(estimate: Estimate) -> dict[str, str]:
    """What is left to do takes."""
    time = "not known yet: nothing like it was measured on this machine"
    if estimate.seconds is not None:
        time = f"about {duration(max(1, estimate.seconds))}" if estimate.seconds else "none, it is done"
    return {
        "memory": size(estimate.ram_bytes),
        "disk": size(estimate.disk_bytes),
        "download": size(estimate.download_bytes),
        "time": time,
    }

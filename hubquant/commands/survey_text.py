"""A survey as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.printable import plain
from hubquant.units import duration, size

if TYPE_CHECKING:
    from hubquant.commands.survey import Survey, SurveyedType


def survey_text(survey: Survey) -> str:
    return "\n".join([*_about(survey), *_types(survey), *(f"note: {plain(note)}" for note in survey.notes)])


def _about(survey: Survey) -> list[str]:
    what = [survey.architecture] if survey.architecture else []
    what += [f"{survey.parameters / 1e6:.1f} M weights"] if survey.parameters else []
    license = survey.license.name or survey.license.tag or "none named"
    lines = [
        f"{plain(survey.model)} at {survey.revision[:12]}{': ' if what else ''}{', '.join(what)}",
        f"license    {plain(license)}{'' if survey.license.derivatives else ', which allows no derivatives'}",
    ]
    if survey.gated:
        lines.append(f"gated      {survey.gated}, {'with' if survey.access else 'without'} access")
    if survey.unsupported is not None:
        lines.append(f"unsupported: {plain(survey.unsupported)}")
        lines += [f"hint: {plain(survey.hint)}"] if survey.hint else []
    if survey.published and survey.published.commit:
        files = ", ".join(file.type for file in survey.published.files) or "no files of hubquant"
        lines.append(f"published  {plain(survey.published.repository)}: {plain(files)}")
    return lines


def _types(survey: Survey) -> list[str]:
    if not survey.types:
        return []
    head = f"{'type':<10} {'size':>8} {'bpw':>7} {'memory':>8} {'time':>12}"
    return ["", head, *(_row(each, survey.memory(each.name)) for each in survey.types)]


def _row(each: SurveyedType, memory: int | None) -> str:
    if each.size is None or each.bpw is None:
        return f"{each.name:<10} {plain(each.unavailable or '')}"
    seconds = each.making.seconds if each.making else None
    notes = [each.advice, "needs an importance matrix" if each.needs_imatrix else None]
    notes += [f"only {each.fork} loads it"] if each.fork and each.programs is None else []
    notes += [f"loads in {', '.join(each.programs) or 'no program known'}"] if each.programs is not None else []
    row = (
        f"{each.name:<10} {size(each.size):>8} {each.bpw:>7.3f} {size(memory) if memory else '':>8} "
        f"{'' if seconds is None else duration(max(1, seconds)):>12}  {'; '.join(note for note in notes if note)}"
    )
    return row.rstrip()

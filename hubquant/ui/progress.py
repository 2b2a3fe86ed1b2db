"""A job as it goes, from the events that its process tells."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.publish.html import text
from hubquant.ui.html import facts, message, sentence
from hubquant.units import duration, number, size

if TYPE_CHECKING:
    from hubquant.jobs.job import Job

MOST_LINES = 400
STATES = {
    "queued": "waiting for its turn",
    "waiting": "waiting for you to sign in",
    "running": "running",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}
_STAGES = {
    "imatrix": "Calibrate: what matters most in the model",
    "baseline": "Ask the original model, to compare with",
    "quantize": "Write the files",
    "verify": "Check every file against the original",
    "evaluate": "Measure every file",
    "card": "Write the model card",
    "push": "Publish",
}


@dataclass(frozen=True)
class Stage:
    """``done`` and ``total`` of the bar that moved last, in ``unit``."""

    name: str
    detail: str
    reused: bool
    bar: dict[str, Any] | None = None


def stages(events: Sequence[dict[str, Any]]) -> list[Stage]:
    found: list[Stage] = []
    for event in sorted(events, key=lambda event: event["number"]):
        if event["event"] == "step" and event["name"] != "model":
            found.append(Stage(event["name"], event["detail"], event["reused"]))
        elif event["event"] == "progress" and found:
            last = found[-1]
            found[-1] = Stage(last.name, last.detail, last.reused, event)
    return found


def job_card(job: Job, events: Sequence[dict[str, Any]]) -> str:
    shown = stages(events)
    state = "being cancelled" if job.cancelling else STATES[job.state]
    pairs = [("State", f'<span class="hq-state hq-{text(job.state)}">{text(state)}</span>')]
    if job.state == "queued" and job.position:
        pairs.append(("Place in line", str(job.position)))
    if job.started:
        end = job.finished or time.time()
        pairs.append(("Time so far" if job.finished is None else "Time taken", duration(max(1, end - job.started))))
    if job.order.publishes:
        pairs.append(("Publishes to", text(", ".join(model.to for model in job.order.models if model.to))))
    parts = [f"<h2>{text(job.title)}</h2>", facts(pairs)]
    if job.error:
        what, _, hint = job.error.partition(" Next: ")
        parts.append(message(sentence(what).rstrip("."), hint=hint or None))
    last = {"running": "active", "done": "done"}.get(job.state, "stopped")
    items = [_stage(stage, last if stage is shown[-1] else "done") for stage in shown]
    if items:
        parts.append(f'<ol class="hq-stages" aria-label="Stages">{"".join(items)}</ol>')
    elif job.state == "running":
        parts.append('<p role="status">Reading what the model\'s files hold …</p>')
    return f'<section aria-label="The job">{"".join(parts)}</section>'


def log_lines(events: Sequence[dict[str, Any]]) -> str:
    """The log as plain text, the latest last."""
    lines = []
    for event in sorted(events, key=lambda event: event["number"]):
        stamp = time.strftime("%H:%M:%S", time.gmtime(event["at"]))
        lines.append(f"{stamp}  {_line(event)}")
    return "\n".join(lines[-MOST_LINES:])


def _stage(stage: Stage, kind: str) -> str:
    """``kind`` is done, active or stopped."""
    head = text(_STAGES.get(stage.name.split(":")[0], stage.name))
    more = "" if stage.name == "card" else f'<span class="hq-detail">{text(stage.detail)}</span>'
    more += ' <span class="hq-detail">(kept from an earlier run)</span>' if stage.reused else ""
    if kind == "active" and stage.bar is not None:
        more += _bar(stage.bar)
    current = ' aria-current="step"' if kind == "active" else ""
    return f'<li class="hq-{kind}"{current}><strong>{head}</strong> {more}</li>'


def _bar(bar: dict[str, Any]) -> str:
    done, total = bar["done"], max(bar["total"], 1)
    left = "" if bar["seconds_left"] is None else f", {duration(bar['seconds_left'])} left"
    said = f"{_amounts(bar)}{_rate(bar)}{left}"
    label = text(bar["label"])
    return (
        f'<progress max="{total}" value="{done}" aria-label="{label}">{done / total:.0%}</progress>'
        f'<span class="hq-detail">{label}: {text(said)}</span>'
    )


def _amounts(bar: dict[str, Any]) -> str:
    done, total, unit = bar["done"], bar["total"], bar["unit"]
    return f"{size(done)} of {size(total)}" if unit == "B" else f"{done:,} of {total:,} {unit}"


def _rate(bar: dict[str, Any]) -> str:
    if not bar["rate"]:
        return ""
    return f", {size(bar['rate'])}/s" if bar["unit"] == "B" else f", {number(bar['rate'])} {bar['unit']}/s"


def _line(event: dict[str, Any]) -> str:
    match event["event"]:
        case "step":
            kept = " (kept from an earlier run)" if event["reused"] else ""
            return f"{event['name']}: {event['detail']}{kept}"
        case "progress":
            return f"{event['label']}: {_amounts(event)}"
        case "note":
            return f"note: {event['text']}"
        case _:
            return str(event.get("text", event["event"]))

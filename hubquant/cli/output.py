"""The one sink of the command line: data on stdout; progress, notes and errors on stderr."""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubquant.cli.hints import fitted
from hubquant.cli.terminal import fitted_to_terminal, takes_escape_codes
from hubquant.cli.text import finite
from hubquant.engine.progress import Meter, Told
from hubquant.errors import HubquantError
from hubquant.printable import message, table
from hubquant.redaction import without_secrets, without_tokens
from hubquant.units import duration, size

if TYPE_CHECKING:
    from rich.console import Console

    from hubquant.engine.progress import Advance, Progress

JsonOption = Annotated[bool, typer.Option("--json", help="Data as JSON on stdout, progress as JSON lines on stderr.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; errors only.")]

RETRY = re.compile(r"(?:Retrying in|Waiting) (?P<wait>[\d.]+)s.*\[Retry (?P<attempt>\d+)/")
LINE_EVERY = 5.0  # seconds between progress lines where no bar can be drawn


class Output:
    """``command`` is the one whose flags hints are to name."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, command: str = "") -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.command = command

    def data(self, value: Any, text: str | Callable[[], str]) -> None:
        """Print ``value`` as JSON with ``--json``, else ``text``."""
        if self.as_json:
            shown = json.dumps(finite(value))
        else:
            shown = fitted_to_terminal(table(text if isinstance(text, str) else text()))
        sys.stdout.write(shown.rstrip("\n") + "\n")
        sys.stdout.flush()

    def progress(self) -> Progress:
        from hubquant.engine.progress import Silent

        if self.as_json:
            return JsonProgress()
        log = getattr(sys.stderr, "log", None)
        if self.quiet:
            return LineProgress(log) if log else Silent()
        if not takes_escape_codes() or getattr(sys.stderr, "stamps", False):
            return LineProgress(say)
        from rich.console import Console

        console = Console(file=getattr(sys.stderr, "shown", sys.stderr), highlight=False)
        if not console.is_terminal or console.is_dumb_terminal:
            return LineProgress(say)
        return TerminalProgress(console, LineProgress(log) if log else Silent(), moving=sys.stderr.isatty())

    def error(self, error: HubquantError) -> None:
        parts = {"what": error.what, "why": error.why, "hint": fitted(error.hint or "", self.command)}
        shown = {name: message(without_tokens(text)) if text else None for name, text in parts.items()}
        if self.as_json:
            say(json.dumps({"event": "error", **shown}))
            return
        say("Error: " + ": ".join(text for text in (shown["what"], shown["why"]) if text))
        if shown["hint"]:
            say(f"  next: {shown['hint']}")

    def tell(self, text: str, retry: Mapping[str, float] | None) -> None:
        """A note; with ``--json`` a retry, as which it counts ``attempt`` and ``wait`` in seconds, is an event."""
        progress = self.progress()
        if retry is not None and isinstance(progress, JsonProgress):
            progress.tell("retry", text=message(text), **retry)
        else:
            progress.note(text)

    @contextmanager
    def warnings(self, level: int = logging.WARNING) -> Iterator[None]:
        """What libraries warn of are notes, and what they log from ``level`` on."""
        handler, root = _Notes(self, level), logging.getLogger()
        before = root.level
        with warnings.catch_warnings():
            warnings.showwarning = lambda text, *_, **__: self.progress().note(str(text))
            root.addHandler(handler)
            root.setLevel(min(level, before))
            try:
                with _clients_retries(self):
                    yield
            finally:
                root.setLevel(before)
                root.removeHandler(handler)


class _Notes(logging.Handler):
    """Records of loggers that have no handler of their own."""

    def __init__(self, output: Output, level: int) -> None:
        super().__init__(level)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger(record.name.partition(".")[0]).handlers:
            return
        self._output.tell(without_secrets(record.getMessage()), getattr(record, "retry", None))


class _Retries(logging.Handler):
    """Of requests that huggingface_hub makes again itself; it says so in a logger that is silent otherwise."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.WARNING)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        if match := RETRY.search(record.getMessage()):
            retry = {"attempt": int(match["attempt"]), "wait": float(match["wait"])}
            self._output.tell(f"the Hub does not answer as it should: trying again in {match['wait']} s", retry)


@contextmanager
def _clients_retries(output: Output) -> Iterator[None]:
    logger, handler = logging.getLogger("huggingface_hub.utils._http"), _Retries(output)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def say(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class JsonProgress(Told):
    """One JSON object a line: step, note, retry, doing, and progress with done, total, unit, rate and seconds left."""

    def __init__(self) -> None:
        super().__init__(lambda event: say(json.dumps(finite(event))))


class LineProgress:
    """Plain lines for logs and pipes."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say

    def step(self, name: str, detail: str, *, reused: bool = False) -> None:
        self._say(f"{name}: {message(detail)}{' (done before)' if reused else ''}")

    def note(self, text: str) -> None:
        self._say(f"note: {message(text)}")

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        self._say(message(text))
        yield

    @contextmanager
    def bar(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        def show(meter: Meter) -> None:
            left = "" if meter.seconds_left is None else f", {duration(meter.seconds_left)} left"
            done, rate = f"{amount(meter.done, unit)} of {amount(total, unit)}", amount(meter.rate, unit)
            self._say(f"  {message(label)}: {done}, {rate}/s{left}")

        yield Meter(total, every=LINE_EVERY, show=show).advance


class TerminalProgress:
    """A live bar per task, with rate and time left; ``log`` gets it in lines.

    Without ``moving``, as in a log that shows colours, there are lines in place of bars, as long as they are.
    """

    def __init__(self, console: Console, log: Progress, *, moving: bool) -> None:
        self.console, self.log, self.moving = console, log, moving

    def step(self, name: str, detail: str, *, reused: bool = False) -> None:
        from rich.markup import escape

        self.log.step(name, detail, reused=reused)
        tail = " [dim](done before)[/dim]" if reused else ""
        self._print(f"[bold]{escape(name):>10}[/bold]", f"{escape(message(detail))}{tail}")

    def note(self, text: str) -> None:
        from rich.markup import escape

        self.log.note(text)
        self._print(f"[yellow]{'note':>10}[/yellow]", escape(message(text)))

    def _print(self, name: str, text: str) -> None:
        from rich.table import Table

        if not self.moving:
            self.console.print(f"{name}  {text}", soft_wrap=True)
            return
        columns = Table.grid(padding=(0, 2, 0, 0))
        columns.add_column(no_wrap=True)
        columns.add_column(overflow="fold")
        columns.add_row(name, text)
        self.console.print(columns)

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        from rich.markup import escape

        if not self.moving:
            with LineProgress(say).doing(text):
                yield
            return
        with self.log.doing(text), self.console.status(escape(message(text))):
            yield

    def bar(self, label: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        return self._bar(label, total, unit) if self.moving else LineProgress(say).bar(label, total, unit)

    @contextmanager
    def _bar(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            ProgressColumn,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        class Amounts(ProgressColumn):
            def render(self, task: Task) -> Text:
                done = f"{amount(int(task.completed), unit)} of {amount(total, unit)}"
                return Text(f"{done}, {amount(float(task.speed or 0), unit)}/s")

        columns = [TextColumn("{task.description:>10}"), BarColumn(), Amounts(), TimeRemainingColumn()]
        bar = RichProgress(*columns, console=self.console, transient=True)
        with self.log.bar(label, total, unit) as log, bar as progress:
            task = progress.add_task(escape(message(label)), total=total)

            def advance(n: int) -> None:
                progress.advance(task, n)
                log(n)

            yield advance


def amount(value: float, unit: str) -> str:
    return size(value) if unit == "B" else f"{value:.1f} {unit}" if isinstance(value, float) else f"{value} {unit}"

"""Mistakes on the command line, found before a command starts: which word is wrong, and what to write instead."""

from __future__ import annotations

import datetime
import difflib
import json
import os
import shlex
import sys
import time
import types
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from hubquant.disk import user_path
from hubquant.errors import UserError
from hubquant.version import __version__

UsageError: Any = typer.BadParameter.__base__
"""Of typer's own click, or of click where typer uses that; both have it as the base of this one."""

MODELS = ("/", ".gguf", ".yaml", ".yml")  # what the name of a model or a recipe holds, and no command's


def near(word: str, valid: Iterable[str]) -> str | None:
    """The one of ``valid`` that ``word`` may be a slip of."""
    return next(iter(difflib.get_close_matches(word, list(valid), n=1, cutoff=0.6)), None)


class Group(TyperGroup):
    """Commands; alone it shows its help, and a word that is no command gets the nearest."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # a line that is being typed
            return list(super().parse_args(ctx, args))
        if args in ([], ["--"]):
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        with _explained(ctx, args):
            return list(super().parse_args(ctx, args))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is None:
            path, commands = ctx.command_path, self.list_commands(ctx)
            if found := near(name.lower(), commands):
                hint = f"did you mean {path} {found}?"
            elif ctx.parent is None and (os.path.exists(name) or any(part in name for part in MODELS)):
                hint = f"write: {path} run {name}"
            else:
                hint = f"the commands are {', '.join(commands)}"
            raise UserError(f"{path} has no command {name!r}", hint=hint)
        return super().resolve_command(ctx, args)


class Command(TyperCommand):
    """Refuses what click would take in silence: an option twice, another option as a value, an empty value.

    ``--verbose`` and ``--log-file`` are looked for before anything is parsed: here they are only known.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _of_every_command()

    def invoke(self, ctx: Any) -> Any:
        """With ``--json``, an event when the work begins, and one when it ends as it should."""
        if not ctx.params.get("as_json"):
            return super().invoke(ctx)
        begin = time.monotonic()
        _event("start", version=__version__, command=ctx.command_path.partition(" ")[2], time=_now())
        try:
            code = super().invoke(ctx)
        except typer.Exit as end:
            _event("done", code=end.exit_code, elapsed=round(time.monotonic() - begin, 3))
            raise
        _event("done", code=0, elapsed=round(time.monotonic() - begin, 3))
        return code

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:
            return list(super().parse_args(ctx, args))
        _refuse_one_dash(ctx, args)
        with _explained(ctx, args):
            given, rest, order = self.make_parser(ctx).parse_args(list(args))
            if not given.get("help"):
                self._check(ctx, given, order, rest)
            return list(super().parse_args(ctx, args))

    def _check(self, ctx: Any, given: dict[str, Any], order: Sequence[Any], rest: Sequence[str]) -> None:
        names = _option_names(ctx)
        hints = typing.get_type_hints(self.callback, include_extras=True)
        for param, count in Counter(order).items():
            if count > 1 and not param.multiple and not param.is_flag and param.param_type_name == "option":
                raise UserError(f"{_name(param)} is given {count} times", hint="give it once")
            for value in _values(given.get(param.name)):
                if value in names and param.param_type_name == "option":
                    raise UserError(f"{_name(param)} needs a value", why=f"{value} follows it", hint=_help(param))
                if not value:
                    raise UserError(f"{_name(param)} is empty", hint=_help(param))
                if param.name in hints and (wrong := _wrong(value, hints[param.name])):
                    raise UserError(f"{_name(param)}: {value!r} is {wrong}", hint=_instead(ctx, param, value, hints))
        if rest:
            raise _left_over(ctx, given, rest)
        model, out = given.get("model"), given.get("out")
        if model and out and _is_one_file(model, out):
            raise UserError(f"{model} would be written over", why="it is the model", hint="give --out another name")


@cache
def _of_every_command() -> list[Any]:
    """As click has them."""
    app = typer.Typer(add_completion=False)
    app.command()(_with_log)
    return list(typer.main.get_command(app).params)


def _with_log(
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", expose_value=False, help="The time before every line on stderr, and what libraries log."
        ),
    ] = False,
    log_file: Annotated[
        str | None,
        typer.Option(
            "--log-file",
            expose_value=False,
            help="Append what stderr shows to this file, with the time; with --quiet what it would show.",
        ),
    ] = None,
) -> None:
    """What run_app looks for by itself."""


def _event(event: str, **fields: Any) -> None:
    sys.stderr.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stderr.flush()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _is_one_file(first: str, second: str) -> bool:
    try:
        return os.path.isfile(second) and os.path.samefile(user_path(first), second)
    except OSError:
        return False


@contextmanager
def _explained(ctx: Any, args: Sequence[str]) -> Iterator[None]:
    """The parser's own errors as ours."""
    try:
        yield
    except UsageError as error:
        raise _explain(ctx, args, error) from None


def _explain(ctx: Any, args: Sequence[str], error: Any) -> UserError:
    option, param = getattr(error, "option_name", None), getattr(error, "param", None)
    if option is not None and hasattr(error, "possibilities"):
        return _no_option(ctx, option)
    if option is not None:
        param = next(p for p in ctx.command.params if option in (*p.opts, *p.secondary_opts))
        return UserError(f"{option} {'takes no' if param.is_flag else 'needs a'} value", hint=_help(param))
    if param is not None:
        required = [p for p in ctx.command.params if p.required]
        parts = [_name(p) if p in _arguments(ctx) else f"{_name(p)} {_kind(p)}" for p in required]
        line = " ".join([ctx.command_path, *parts])
        return UserError(f"{_name(param)} is missing", why=param.help, hint=f"write: {line}")
    return UserError(f"{ctx.command_path} does not understand {' '.join(args)}", hint=_see(ctx))


def _no_option(ctx: Any, option: str) -> UserError:
    commands = getattr(ctx.command, "commands", {})
    if any(option in _names_of(command) for command in commands.values()):
        return UserError(f"{option} stands before the command", hint=f"write: {ctx.command_path} COMMAND … {option}")
    found = near(option.lstrip("-"), [name.lstrip("-") for name in _option_names(ctx) if len(name) > 2])
    hint = f"did you mean --{found}?" if found else _see(ctx)
    if option[1:2].isdecimal() and _arguments(ctx):
        hint = "what begins with a dash and is no option comes last, after --"
    return UserError(f"{ctx.command_path} has no option {option}", hint=hint)


def _left_over(ctx: Any, given: dict[str, Any], rest: Sequence[str]) -> UserError:
    """Words that no argument takes."""
    from hubquant.mix.file_types import is_file_type

    words = ", ".join(rest)
    texts = [value for param in _arguments(ctx) for value in _values(given.get(param.name))]
    joined = " ".join([*texts, *rest])
    takes = " and ".join(_name(param) for param in _arguments(ctx))
    what = f"{ctx.command_path} takes {takes}, and {words} {'is' if len(rest) == 1 else 'are'} left over"
    types = [word for word in rest if word and all(map(is_file_type, filter(None, word.split(","))))]
    if types == list(rest) and (given.get("types") or given.get("type")):
        hint = f"write several types with commas and without spaces, such as Q8_0,{','.join(types)}"
    elif os.path.exists(joined):
        hint = f"put what holds spaces between quotes: '{joined}'"
    elif rest[0][:1] in "–—":
        hint = f"an option begins with two plain dashes: --{rest[0].lstrip('–—-')}"
    elif types and (options := _as_options(ctx, rest, types)):
        hint = f"name {'it with an option' if len(rest) == 1 else 'them with options'}: {options}"
    else:
        hint = _see(ctx)
    return UserError(what, hint=hint)


def _as_options(ctx: Any, rest: Sequence[str], types: Sequence[str]) -> str | None:
    """What llama-quantize has without options: "out.gguf Q8_0"."""
    names, others = _option_names(ctx), [word for word in rest if word not in types]
    if "-t" not in names or len(others) > 1 or (others and "-o" not in names):
        return None
    return shlex.join(["-t", ",".join(types), *(word for other in others for word in ("-o", other))])


def _refuse_one_dash(ctx: Any, args: Sequence[str]) -> None:
    """-types would be read as -t with the value "ypes"."""
    for arg in args:
        name = f"-{arg.partition('=')[0]}"
        if len(arg) > 2 and arg[0] == "-" and arg[1] != "-" and name in _option_names(ctx):
            raise UserError(f"{ctx.command_path} has no option {arg}", hint=f"did you mean {name}?")


def _wrong(value: str, annotation: Any) -> str | None:
    """Why ``value`` is none of ``annotation``, or None."""
    kind, info = _unwrapped(annotation)
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        return None if value in choices else f"not one of {', '.join(choices)}"
    if kind not in (int, float):
        return None
    noun = "whole number" if kind is int else "number"
    try:
        number = kind(value)
    except ValueError:
        return f"not a {noun}"
    if info is not None and info.min is not None and not number >= info.min:
        return f"less than {info.min}" if number < info.min else f"not a {noun}"
    return None


def _instead(ctx: Any, param: Any, value: str, hints: dict[str, Any]) -> str:
    kind, _ = _unwrapped(hints[param.name])
    if typing.get_origin(kind) is typing.Literal and (found := near(value.lower(), typing.get_args(kind))):
        return f"did you mean {found}?"
    if isinstance(param.default, int | float):
        return f"the default is {_name(param)} {param.default}"
    return _see(ctx)


def _unwrapped(annotation: Any) -> tuple[Any, OptionInfo | None]:
    """``int`` of ``Annotated[list[int] | None, Option(...)]``, and the option."""
    info = next((part for part in getattr(annotation, "__metadata__", ()) if isinstance(part, OptionInfo)), None)
    kind = annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    return (typing.get_args(kind)[0] if typing.get_origin(kind) is list else kind), info


def _values(given: Any) -> list[str]:
    return [value for value in (given if isinstance(given, list | tuple) else [given]) if isinstance(value, str)]


def _arguments(ctx: Any) -> list[Any]:
    return [param for param in ctx.command.params if param.param_type_name == "argument"]


def _option_names(ctx: Any) -> list[str]:
    return [*_names_of(ctx.command), *ctx.help_option_names]


def _names_of(command: Any) -> list[str]:
    options = [param for param in command.params if param.param_type_name == "option"]
    return [name for option in options for name in (*option.opts, *option.secondary_opts)]


def _name(param: Any) -> str:
    """--out, or an argument's metavar."""
    if param.param_type_name == "option":
        return str(max(param.opts, key=len))
    return str(param.metavar)


def _kind(param: Any) -> str:
    return str(max(param.opts, key=len)).lstrip("-").upper()


def _help(param: Any) -> str:
    return f"{_name(param)}: {param.help.removesuffix('.')}"


def _see(ctx: Any) -> str:
    return f"see {ctx.command_path} --help"

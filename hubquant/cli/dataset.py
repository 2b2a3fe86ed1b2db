"""``hubquant dataset``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.run import SetOption
from hubquant.cli.usage import Command, Group

app = typer.Typer(cls=Group, help="Build the text that a model is calibrated on.", rich_markup_mode=None)

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([_-]\w+)*,?")


class WithLanguages(Command):
    """``--langs en es de`` is several languages; a word after them that looks like none is the recipe."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _one_by_one(args))


def _one_by_one(args: list[str]) -> list[str]:
    found: list[str] = []
    within = False
    for position, arg in enumerate(args):
        if arg == "--":
            return [*found, *args[position:]]
        if within and args[position - 1] != "--langs" and _LANGUAGE.fullmatch(arg):
            found.append("--langs")
        else:
            within = arg == "--langs" or (within and args[position - 1] == "--langs")
        found.append(arg)
    return found


@app.command(cls=WithLanguages)
def build(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A recipe, whose calibration texts and tokenizer are used."),
    ] = None,
    out: Annotated[
        Path | None,
        Option("--out", "-o", "--output", help="The file to write: .txt, or .jsonl for rows with their languages."),
    ] = None,
    files: Annotated[
        list[str] | None, Option("--file", "-f", help="A text, jsonl or parquet file or a Hub dataset. Repeatable.")
    ] = None,
    datasource_plugin: Annotated[
        str | None,
        Option("--datasource-plugin", "--datasource_plugin", help="A Python file of yours that gives records."),
    ] = None,
    plugin_class: Annotated[
        str, Option("--plugin-class", "--plugin_class", help="The class in that file.")
    ] = "DataSourcePlugin",
    langs: Annotated[
        list[str] | None,
        Option(
            "--langs",
            help="Languages: en es de. A plugin is asked for each; {lang} in -f, --config, --split, --field is each.",
        ),
    ] = None,
    config: Annotated[str | None, Option("--config", help="The configuration of the datasets, such as {lang}.")] = None,
    split: Annotated[str | None, Option("--split", help="Their split (default: train).")] = None,
    field: Annotated[str | None, Option("--field", help="The field with the text (default: text).")] = None,
    samples: Annotated[
        int | None,
        Option("--samples", "--num-samples", "--num_samples", min=1, help="At most so many records of each language."),
    ] = None,
    skip_samples: Annotated[
        int, Option("--skip-samples", "--skip_samples", min=0, help="Leave so many records of each language out first.")
    ] = 0,
    tokenizer: Annotated[
        str | None, Option("--tokenizer", metavar="MODEL", help="Count its tokens (default: the recipe's model's).")
    ] = None,
    max_tokens: Annotated[int | None, Option("--max-tokens", min=1, help="At most so many tokens in all.")] = None,
    balance: Annotated[
        bool, Option("--balance/--no-balance", help="As much of each language of a source, or all there is.")
    ] = True,
    keep_duplicates: Annotated[
        bool, Option("--keep-duplicates", help="Leave in what is nearly the same as an earlier document.")
    ] = False,
    split_test: Annotated[
        str | None,
        Option("--split-test", help="Write the first part, 20% or 50k tokens, to OUT-test, and the rest to OUT."),
    ] = None,
    count_only: Annotated[
        bool, Option("--count-only", help="Count tokens of each source and language, and write nothing.")
    ] = False,
    seed: Annotated[int | None, Option("--seed", min=0, help="Decides what is random (default: the recipe's).")] = None,
    set: SetOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build one text of files, datasets and plugins: without duplicates, languages in balance."""
    from hubquant.api import build_dataset

    output = Output(as_json=as_json, quiet=quiet)
    report = build_dataset(
        recipe,
        out=out,
        file=files or [],
        datasource_plugin=datasource_plugin,
        plugin_class=plugin_class,
        langs=langs or [],
        config=config,
        split=split,
        field=field,
        samples=samples,
        skip_samples=skip_samples,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        balance=balance,
        keep_duplicates=keep_duplicates,
        split_test=split_test,
        count_only=count_only,
        seed=seed,
        overrides=set or [],
        progress=output.progress(),
    )
    output.data(report.as_dict(), lambda: str(report))

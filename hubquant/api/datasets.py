"""Build a text to calibrate on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.api.arguments import Names, Overrides, check_least, listed, listed_types, quietly, read_recipe
from hubquant.bars import Bars
from hubquant.errors import UserError
from hubquant.recipe import Recipe

if TYPE_CHECKING:
    from hubquant.commands.corpus_report import CorpusReport


def build_dataset(
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    *,
    out: Path | str | None = None,
    file: Names = (),
    datasource_plugin: Path | str | None = None,
    plugin_class: str = "DataSourcePlugin",
    langs: Names = (),
    config: str | None = None,
    split: str | None = None,
    field: str | None = None,
    samples: int | None = None,
    skip_samples: int = 0,
    tokenizer: str | Path | None = None,
    max_tokens: int | None = None,
    balance: bool = True,
    keep_duplicates: bool = False,
    split_test: str | None = None,
    count_only: bool = False,
    seed: int | None = None,
    overrides: Overrides = (),
    progress: Bars = "auto",
) -> CorpusReport:
    """Write one text of files, datasets and plugins to ``out``: without near duplicates, languages in balance.

    ``out`` is a .txt file, or a .jsonl one for rows with their languages. The texts are those of ``recipe``, whatever
    stands for one as in ``run``, with ``overrides``; those that ``file`` names, text, jsonl or parquet files or Hub
    datasets, of which ``config``, ``split`` and ``field`` say what is read; and the records of ``plugin_class`` in the
    Python file ``datasource_plugin``. A plugin is asked for each of ``langs`` (["en", "de"]), which stand for {lang} in
    ``file``, ``config``, ``split`` and ``field``; at most ``samples`` records of each, after ``skip_samples``.

    Sizes are tokens of ``tokenizer``, a model, by default the recipe's, and without one characters; at most
    ``max_tokens`` of them are used. Without ``balance`` all there is of each language. ``split_test`` ("20%" or "50k"
    tokens) writes the first part to a file beside ``out``, called -test. ``count_only`` counts and writes nothing.

    Returns what each source and language gave and the files. ``print`` shows it. Raises ``HubquantError``.
    """
    if out is None and not count_only:
        raise UserError("--out is missing", hint="write -o calib.txt, or --count-only to write nothing")
    if overrides and recipe is None:
        raise UserError("--set changes a recipe, and none is named", hint="name one, or leave --set out")
    for name, value, least in (
        ("samples", samples, 1),
        ("max_tokens", max_tokens, 1),
        ("skip_samples", skip_samples, 0),
    ):
        check_least(name, least if value is None else value, least)
    loaded = None if recipe is None else read_recipe(recipe, overrides)
    with quietly(progress) as seen:
        from hubquant.commands.corpus_sources import Rows, plugins, texts
        from hubquant.commands.dataset import HeldOut, Request, build

        rows = Rows(tuple(listed_types(",".join(listed(langs)))), samples, skip_samples, config, split, field)
        named = [] if datasource_plugin is None else [f"{datasource_plugin}:{plugin_class}"]
        request = Request(
            None if count_only or out is None else Path(out),
            loaded,
            (*texts(listed(file), rows), *plugins(named, rows)),
            tokenizer=None if tokenizer is None else str(tokenizer),
            balance=balance,
            keep_duplicates=keep_duplicates,
            max_size=max_tokens,
            test=HeldOut.parse(split_test) if split_test else None,
            seed=seed if seed is not None else loaded.calibration.seed if loaded else 0,
        )
        return build(request, seen)

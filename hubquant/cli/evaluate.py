"""``hubquant evaluate``."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="Measure perplexity and KL divergence.", rich_markup_mode=None)

"""``hubquant store``."""

from __future__ import annotations

from hubquant.engine.store import Kept, Store
from hubquant.errors import UserError


def prune(store: Store, older: float | None, max_size: int | None, *, dry_run: bool) -> list[Kept]:
    """Remove what was not used for ``older`` seconds, and what is above ``max_size`` bytes. Raises ``UserError`` where
    neither is given: nothing is removed by mistake."""
    if older is None and max_size is None:
        raise UserError(
            "nothing says what to remove", hint="add --older 30d or --max-size 50GB; --older 0s removes everything"
        )
    return store.prune(older, max_size, dry_run=dry_run)

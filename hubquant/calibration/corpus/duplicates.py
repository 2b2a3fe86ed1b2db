"""Documents that are nearly the same as an earlier one: MinHash with locality-sensitive hashing (Broder 1997)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

ALIKE = 0.8  # the Jaccard similarity of two documents' shingles from which on they are duplicates
SHINGLE = 10  # characters: languages without spaces have them too
GENERATION = 150_000  # documents
_PERMUTATIONS, _BANDS, _SEED = 128, 16, 42
_AT_ONCE = 100_000  # shingles of a long document


class NearDuplicates:
    """Knows at least the last ``GENERATION`` documents that were new, and at most twice as many: the older half of the
    index is dropped when the newer one is full, so that its size has a bound whatever comes."""

    def __init__(self) -> None:
        self._older, self._newer = _index(), _index()
        self._n = 0

    def add(self, text: str) -> bool:
        """Whether ``text`` is new; what is new will be known from now on."""
        from rensa import RMinHash

        signature = RMinHash(_PERMUTATIONS, _SEED)
        shingles = _shingles(text)
        while some := list(islice(shingles, _AT_ONCE)):
            signature.update(some)
        name = str(self._n)
        if self._older.is_duplicate(name, signature) or not self._newer.add(name, signature):
            return False
        self._n += 1
        if self._newer.len() >= GENERATION:
            self._older, self._newer = self._newer, _index()
        return True


def _index() -> Any:
    from rensa import RMinHashDeduplicator

    return RMinHashDeduplicator(ALIKE, _PERMUTATIONS, use_lsh=True, num_bands=_BANDS, seed=_SEED)


def _shingles(text: str) -> Iterator[str]:
    """Case and runs of spaces make no difference."""
    plain = " ".join(text.casefold().split())
    for start in range(max(1, len(plain) - SHINGLE + 1)):
        yield plain[start : start + SHINGLE]

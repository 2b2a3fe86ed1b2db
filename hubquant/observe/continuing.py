"""Matrices of pictures that a new one goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hubquant.convert.diffusion.family import PREFIX
from hubquant.convert.diffusion.recognise import TEXT_ENCODERS
from hubquant.errors import ImatrixError
from hubquant.imatrix import Entry, ImportanceMatrix, merge
from hubquant.imatrix.legacy import DIFFUSION_PROVENANCE
from hubquant.observe.patches import columns
from hubquant.observe.pictures import PictureSums


def matching(given: ImportanceMatrix, sums: PictureSums) -> ImportanceMatrix:
    """``given`` by the names that ``sums`` have for the same weights. Raises ``ImatrixError`` where it belongs to
    another model, before there is anything to add it to."""
    by_short = {name.removeprefix(PREFIX): name for name in sums.layers}
    entries = {by_short.get(name.removeprefix(PREFIX), name): entry for name, entry in given.entries.items()}
    common = [name for name in entries if name in sums.layers]
    wrong = [name for name in common if entries[name].in_sum2.shape != (1, columns(sums.layers[name]))]
    if wrong or not common:
        first = next(iter([*wrong, *entries]), "nothing")
        raise ImatrixError(
            "the importance matrix that is to be continued belongs to another model",
            why=f"{first} has another size there" if wrong else f"it has {first}, and the pipeline has no such weight",
            hint="continue the matrix of this model, or leave it out",
        )
    named = replace(given, entries=entries)
    merge([named, ImportanceMatrix({}, (), 1, 0, sums.facts())])
    return named


def continued(matrix: ImportanceMatrix, given: Sequence[ImportanceMatrix]) -> ImportanceMatrix:
    """The sum of ``matrix`` and those ``given``, each weighing as many rows as it saw."""
    return merge([matrix, *(_in_rows(each, matrix) for each in given)]) if given else matrix


def _in_rows(given: ImportanceMatrix, own: ImportanceMatrix) -> ImportanceMatrix:
    """stable-diffusion.cpp counts calls, each for one picture and one branch of guidance, whose rows its files do not
    tell: they are taken to be as many as ``own`` saw for each."""
    if given.provenance.get("counts") != DIFFUSION_PROVENANCE["counts"]:
        return given
    calls = {kind: max(1, int(own.provenance[kind])) for kind in ("predictions", "prompts")}
    entries = {}
    for name, entry in given.entries.items():
        seen = own.entries.get(name)
        kind = "prompts" if name.startswith(TEXT_ENCODERS) else "predictions"
        rows = 1 if seen is None else max(1, round(int(seen.counts[0]) / calls[kind]))
        entries[name] = Entry(entry.in_sum2 * rows, entry.counts * rows)
    facts = {key: value for key, value in given.provenance.items() if key != "counts"}
    return replace(given, entries=entries, provenance=facts)

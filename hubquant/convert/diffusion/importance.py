"""Importance matrices of pipelines: whose weights their entries are."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from hubquant.convert.diffusion.conversion import default_layout
from hubquant.convert.diffusion.family import PREFIX
from hubquant.convert.diffusion.recognise import TEXT_ENCODERS, recognise
from hubquant.convert.tables import Bundle, Shape
from hubquant.errors import ImatrixError, NotSupportedYet
from hubquant.imatrix import Entry, ImportanceMatrix

HIGH_NOISE = "model.high_noise_diffusion_model."
"""Before names of the denoiser of the first steps, where another one makes the last: as in stable-diffusion.cpp."""

_OF_TEXT_ENCODER = re.compile(r"text_encoders\.\w+\.(?:transformer\.)?(.+)")
_PART = re.compile(r"(.*\.weight)\.[1-9]\d*")


def weight_names(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """By the name in diffusers, the name of a weight in a file of the default layout, where parts of one weight have
    one name. Those of no known family keep theirs; of a known one, tensors that are not in its files are left out."""
    try:
        denoiser = recognise(shapes)
    except NotSupportedYet:
        return {name: name for name in shapes if name.endswith(".weight")}
    prefix = default_layout(denoiser).prefix
    rows = denoiser.family.match(denoiser.shapes, denoiser.layout).rows
    return {
        name: prefix + row.original
        for row in rows
        for name in row.diffusers
        if name.endswith(".weight") and name in shapes
    }


def family_name(shapes: Mapping[str, Shape]) -> str | None:
    """Of the denoiser with these tensors, None where it is of no known family."""
    try:
        return recognise(shapes).family.name
    except NotSupportedYet:
        return None


def fit_denoiser(
    matrix: ImportanceMatrix, shapes: Mapping[str, Shape], observed: Collection[str], *, high_noise: bool = False
) -> ImportanceMatrix:
    """The entries of a denoiser whose file has tensors of these ``shapes``, of which those ``observed`` are weights of
    linear layers as they are there, by their names in the file.

    In ``matrix`` they are original, with the prefix of files that hold everything or without, or those of the file. Of
    a weight whose parts stable-diffusion.cpp read one by one, the first is taken: all see the same. Entries of text
    encoders are left out, and those of weights that are not observed. With ``high_noise`` the entries are
    those of the denoiser that makes the first of the steps, where ``matrix`` has two.

    Raises ``ImatrixError`` where the matrix has other weights.
    """
    known = {name.removeprefix(PREFIX): {name: None} for name in shapes}
    for name, original in weight_names(shapes).items():  # of a file in diffusers' layout
        known.setdefault(original.removeprefix(PREFIX), {})[name] = None
    given = {name: known.get(short, {}) for name, short in _denoisers(matrix.entries, high_noise)}
    foreign = [name for name, targets in given.items() if not targets]
    if foreign or not given:
        raise ImatrixError(
            "the importance matrix belongs to another model",
            why=f"it has {foreign[0]}, and the denoiser has no such weight"
            if foreign
            else f"it has {next(iter(matrix.entries), 'nothing')}, and nothing of a denoiser",
            hint="use the matrix of this model, or have one collected",
        )
    entries: dict[str, Entry] = {}
    for name, targets in sorted(given.items()):  # a weight stands before its parts
        for target in targets:
            if target in observed:
                entries.setdefault(target, matrix.entries[name])
    return replace(matrix, entries=entries).fit(shapes)


def fit_text_encoder(
    matrix: ImportanceMatrix, bundles: Iterable[Bundle], shapes: Mapping[str, Shape]
) -> ImportanceMatrix:
    """The entries of a text encoder, which a file of these ``shapes`` is made of by ``bundles``.

    A matrix of a pipeline has its weights as stable-diffusion.cpp calls them; one of texts has the names of the file.
    Raises ``ImatrixError`` where the matrix has other weights.
    """
    single = [bundle for bundle in bundles if len(bundle.sources) == len(bundle.targets) == 1]
    targets = {bundle.sources[0]: next(iter(bundle.targets)) for bundle in single}
    own = {match[1]: name for name in matrix.entries if (match := _OF_TEXT_ENCODER.fullmatch(name))}
    entries = {targets[source]: matrix.entries[name] for source, name in own.items() if source in targets}
    return (replace(matrix, entries=entries) if entries else matrix).fit(shapes)


def _denoisers(names: Iterable[str], high_noise: bool) -> Iterable[tuple[str, str]]:
    """Those of one denoiser, and what they are without prefix and number of the part."""
    names = tuple(names)
    two = any(name.startswith(HIGH_NOISE) for name in names)
    for name in names:
        if not name.startswith(TEXT_ENCODERS) and (not two or name.startswith(HIGH_NOISE) == high_noise):
            short = name.removeprefix(HIGH_NOISE).removeprefix(PREFIX)
            part = _PART.fullmatch(short)
            yield name, part[1] if part else short

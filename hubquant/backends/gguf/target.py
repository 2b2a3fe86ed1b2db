"""What a source becomes in GGUF: what its files hold, and which tensor of each gets which type."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from hubquant.backends.gguf.files import Weights
from hubquant.convert.conversion import Conversion
from hubquant.convert.rules.authorship import replaced
from hubquant.errors import ImatrixError, NotSupportedYet, OtherTokensError
from hubquant.gguf_file.metadata import Metadata, string
from hubquant.mix import requires_imatrix, without_importance
from hubquant.quants import implemented, needs_importance
from hubquant.recent import Recent
from hubquant.sources.component import Component
from hubquant.sources.source import SourceModel
from hubquant.vocab.phi3 import fitting_name

if TYPE_CHECKING:
    from hubquant.llamacpp.vocabulary import VocabularyCheck


_IDS = ("I32", "I64")  # copied from the source, not quantized
_checks: Recent[tuple[Hashable, ...], VocabularyCheck] = Recent(256)


def conversion_weights(
    source: SourceModel,
    conversion: Conversion,
    named: Mapping[str, str] = MappingProxyType({}),
    authorship: Metadata | None = None,
) -> Weights:
    """What the files hold: the source's tensors, and its metadata with ``general.*`` keys from the card, of which
    ``named`` and ``authorship``, which is complete keys, replace some."""
    shapes = conversion.shapes
    weights = Weights(
        conversion.architecture,
        conversion.hparams,
        {},
        shapes,
        conversion.float_type,
        conversion.quantized,
        source.stored_types,
        source.stored_metadata,
    )
    general = replaced(source.general_metadata(shapes), authorship or {})
    if "general.name" in general:
        name = fitting_name(str(general["general.name"].value), strips=conversion.strips_as_phi3)
        general["general.name"] = string(name)
    own = {f"general.{key}": string(value) for key, value in named.items()}
    metadata = {"general.architecture": string(conversion.architecture), **general, **conversion.metadata, **own}
    if authorship and not source.converts_tokenizer:  # the keys of a GGUF file are those of its conversion
        metadata = replaced(metadata, authorship)
    metadata.setdefault("hubquant.source_revision", string(source.revision))
    by = named.get("quantized_by", "hubquant")
    return replace(weights, metadata=metadata, quantized_by=by, exact=conversion.exact)


def without_layers(weights: Weights, component: Component) -> Weights:
    """``weights`` as they are called in ``component``, some of whose layers were pruned; a copy has the keys that this
    changed."""
    whole, now = component.complete.conversion.metadata, component.conversion.metadata
    changed = {key: kv for key, kv in now.items() if kv != whole.get(key)}
    stored = {name: type for name in weights.shapes if (type := weights.stored.get(component.origin(name)))}
    exact = {name: type for name in weights.shapes if (type := weights.exact.get(component.origin(name)))}
    return replace(weights, stored=stored, exact=exact, stored_metadata={**weights.stored_metadata, **changed})


def check_tokenizer(source: SourceModel, weights: Weights) -> VocabularyCheck:
    """The vocabulary as the files will hold it, in llama.cpp. Raises ``TokenizerError`` when it gives other tokens,
    unless the model is part of a pipeline, which llama.cpp does not run."""
    from hubquant.llamacpp.process import installed_version, is_installed
    from hubquant.llamacpp.vocabulary import VocabularyCheck, check_vocabulary
    from hubquant.vocab import Vocabulary

    given = weights.metadata.get("general.name")
    name = str(given.value) if given else source.name
    try:
        return _checks.get(
            (source.content, name, is_installed() and installed_version()),
            lambda: check_vocabulary(Vocabulary.from_metadata(weights.metadata), source.tokenizer(), name=name),
        )
    except OtherTokensError as error:
        if not source.component:
            raise
        return VocabularyCheck(others=str(error))


def settle_types(
    types: Mapping[str, str], ftype: str, label: str, covered: Collection[str], *, where_from: str
) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """The types of a file, with others for weights whose types need data that an incomplete matrix lacks; and a note
    that names them. ``where_from`` says how to get a matrix where there is none.

    Raises ``NotSupportedYet`` for what no kernel can write, and ``ImatrixError`` when data is needed and there is none
    at all.
    """
    missing_kernel = sorted({type for type in types.values() if type not in _IDS and not implemented(type)})
    if missing_kernel:
        raise NotSupportedYet(
            f"files of type {label}",
            why=f"they hold {' and '.join(missing_kernel)} tensors, which hubquant cannot write",
            hint="choose among Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q3_K_M, Q2_K",
        )
    hungry = [
        name
        for name, type in types.items()
        if name not in covered and type not in _IDS and (requires_imatrix(name, type, ftype) or needs_importance(type))
    ]
    if hungry and not covered:
        raise ImatrixError(
            f"{label} needs an importance matrix",
            why=f"{hungry[0]} would be {types[hungry[0]]} and has no data ({len(hungry)} such tensors)",
            hint=f"{where_from}, or choose Q3_K_M",
        )
    if not hungry:
        return types, ()
    others = {name: without_importance(types[name]) for name in hungry}
    first = hungry[0]
    note = (
        f"{label}: the importance matrix has no data for {len(hungry)} weights whose types need it; "
        f"they get another type, {first} {others[first]} instead of {types[first]}"
    )
    return {**types, **others}, (note,)

"""What a model would become, from its metadata alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from hubquant.backends.gguf.backend import GGUF
from hubquant.backends.gguf.files import assign_types
from hubquant.commands.context_memory import ContextMemory, context_memory
from hubquant.commands.publication import Publication, publication
from hubquant.engine.progress import Progress
from hubquant.engine.schedule import estimate
from hubquant.engine.store import Store
from hubquant.engine.task import closure
from hubquant.errors import HubAccessError, OutputError, UserError
from hubquant.gguf_file import Split
from hubquant.mix import FTYPES, requires_imatrix
from hubquant.pipeline.drawing.page import programs_of
from hubquant.pipeline.prepare import prepare
from hubquant.pipeline.publishing import without_derivatives
from hubquant.pipeline.work import Work
from hubquant.quants import needs_importance
from hubquant.recent import Recent
from hubquant.recipe.schema import Evaluate, Imatrix, ModelReference, Publish, Quantize, Recipe
from hubquant.recipe.sizes import parse_size
from hubquant.sources.component import Component
from hubquant.sources.open import component_of, open_remote, open_source
from hubquant.sources.source import SourceModel

if TYPE_CHECKING:
    from hubquant.hub.access import Token

MOST = 256  # surveys that are kept; one takes some 50 kB
COMMON = "Q8_0"  # every model can be it


@dataclass(frozen=True)
class Making:
    """What making one file takes where nothing is there yet, its importance matrix, verification and measurement
    included. Bytes are upper estimates; ``seconds`` are None until such work was done on this machine."""

    ram_bytes: int
    disk_bytes: int
    seconds: float | None


@dataclass(frozen=True)
class SurveyedType:
    """A file type of llama-quantize, or of a fork of llama.cpp that is named then.

    ``size`` is exact to the byte, of all ``shards`` together, for a file that a run makes with the recipe's defaults;
    it, ``bpw`` and ``making`` are None where ``unavailable`` says why there can be no such file. ``advice`` is a
    sentence on what was measured of this model's file, None where nothing was. ``programs`` are those that draw with
    the file of a diffusion model, by name; None of other models.
    """

    name: str
    size: int | None
    bpw: float | None
    shards: int
    needs_imatrix: bool
    unavailable: str | None
    fork: str | None
    making: Making | None
    advice: str | None = None
    programs: tuple[str, ...] | None = None


@dataclass(frozen=True)
class License:
    """As the model's card names it; ``derivatives`` is False where it allows none, such as quantized files."""

    tag: str | None
    name: str | None
    link: str | None
    derivatives: bool


@dataclass(frozen=True)
class Survey:
    """What can be known of a model before any of its weights is read.

    ``access`` says whether the files of a gated model may be read with the token. ``unsupported`` is why there are no
    ``types``, in the words of a plan, and ``hint`` what to do then. ``types`` come from the largest to the smallest,
    those that cannot be made last. ``weights_bytes`` are the files that would be downloaded. ``published`` is what the
    repository holds that files would go to, None where no repository is known.
    """

    model: str
    revision: str
    gated: Literal["auto", "manual"] | None
    access: bool
    private: bool
    license: License
    architecture: str | None
    parameters: int | None
    weights_bytes: int
    unsupported: str | None
    hint: str | None
    types: tuple[SurveyedType, ...]
    context: ContextMemory | None
    notes: tuple[str, ...]
    published: Publication | None

    @property
    def supported(self) -> bool:
        return self.unsupported is None

    def memory(self, type: str, context: int = 4096) -> int | None:
        """Bytes that llama.cpp takes for a file of ``type`` with ``context`` tokens, beside its buffers for computing:
        the file and :meth:`ContextMemory.bytes`. None where that is not known. Raises ``UserError`` for an unknown
        type."""
        found = next((each for each in self.types if each.name == type), None)
        if found is None:
            raise UserError(f"{type} is none of the surveyed types", hint=f"they are {', '.join(FTYPES)}")
        if found.size is None or self.context is None:
            return None
        return found.size + self.context.bytes(context)

    def fits(self, memory_bytes: int, context: int = 4096) -> list[SurveyedType]:
        """The types that run within so many bytes of RAM or VRAM with ``context`` tokens, the largest first."""
        needed = {each.name: self.memory(each.name, context) for each in self.types}
        return [each for each in self.types if (need := needed[each.name]) is not None and need <= memory_bytes]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        from hubquant.commands.survey_text import survey_text

        return survey_text(self)


@dataclass(frozen=True)
class _KnownType:
    """``works`` are the rates of its tasks and their work, from which the time follows."""

    type: SurveyedType
    works: tuple[tuple[str, float], ...] = ()

    def at(self, rates: Mapping[str, float], advice: str | None) -> SurveyedType:
        making, known = self.type.making, all(rate in rates for rate, _ in self.works)
        seconds = sum(work * rates[rate] for rate, work in self.works) if known else None
        return replace(self.type, making=making and replace(making, seconds=seconds), advice=advice)


@dataclass(frozen=True)
class _Known:
    """What a survey holds whoever asks, and whenever."""

    license: License
    architecture: str | None = None
    parameters: int | None = None
    types: tuple[_KnownType, ...] = ()
    context: ContextMemory | None = None
    notes: tuple[str, ...] = ()
    weights_bytes: int = 0
    unsupported: str | None = None
    hint: str | None = None


_recent: Recent[tuple[str, str, str | None], _Known] = Recent(MOST)
"""By repository, commit and component: the content of these never changes."""


def survey(
    reference: ModelReference, store: Store, progress: Progress, token: Token = None, to: str | None = None
) -> Survey:
    """``to`` is the repository to look at for published files, by default the account's ``<model>-GGUF``.

    Access is asked of the Hub with ``token`` each time; only what a commit holds is remembered. Raises
    ``HubAccessError`` for what is not there or may not be seen, and ``UserError`` for a model that is none.
    """
    if reference.id is None:
        with progress.doing("reading what the model's files hold"):
            source = open_source(reference)
        known = _look_into(lambda: source, source.card, store, progress)
        return _told(known, store, None, model=source.name, revision=source.revision)
    from hubquant.hub.pull import look_at

    with progress.doing("asking the Hub"):
        remote = look_at(reference.id, reference.revision, token=token)
        published = publication(remote.id, token, to)
    if remote.refusal is None:
        key, opened = (
            (remote.id, remote.revision, reference.component),
            partial(open_remote, remote, reference.component),
        )
        known = _recent.get(key, lambda: _look_into(opened, remote.card, store, progress))
    else:
        known = _Known(_license(remote.card), unsupported=str(remote.refusal), hint=remote.refusal.hint)
    told = _told(known, store, published, model=remote.id, revision=remote.revision)
    return replace(told, gated=remote.gated, access=remote.refusal is None, private=remote.private)


def _told(known: _Known, store: Store, published: Publication | None, *, model: str, revision: str) -> Survey:
    """With the rates and the measurements of today."""
    rates = store.rates()
    advice = published.advice if published else {}
    return Survey(
        model=model,
        revision=revision,
        gated=None,
        access=True,
        private=False,
        license=known.license,
        architecture=known.architecture,
        parameters=known.parameters,
        weights_bytes=known.weights_bytes,
        unsupported=known.unsupported,
        hint=known.hint,
        types=tuple(
            each.type if each.type.making is None else each.at(rates, advice.get(each.type.name))
            for each in known.types
        ),
        context=known.context,
        notes=known.notes,
        published=published,
    )


def _look_into(open: Callable[[], SourceModel], card: Mapping[str, Any], store: Store, progress: Progress) -> _Known:
    """What a default recipe for every type would come to."""
    license = _license(card)
    try:
        with progress.doing("reading what the model's files hold"):
            component = component_of(open())
        work = prepare(_recipe(component), component, _backend(), store, progress)
        types = [_surveyed(name, work) for name in FTYPES]
    except (HubAccessError, OutputError):
        raise
    except UserError as error:
        return _Known(license, unsupported=str(error), hint=error.hint)
    return _Known(
        license,
        component.conversion.architecture,
        component.n_parameters,
        tuple(sorted(types, key=lambda each: -(each.type.size or 0))),
        context_memory(component.conversion.architecture, work.checked.weights.metadata),
        tuple(work.notes),
        _weights_bytes(component.source),
    )


def _recipe(component: Component) -> Recipe:
    """Of the ways that a model can be made into files the one with the fewest settings."""
    quantize, model = Quantize(types=(COMMON,), allow_fork_types=True), ModelReference(bundled="demo")
    runs, predicts = component.inputs is not None, component.inputs is not None and not component.embeds
    imatrix, evaluate = Imatrix(skip=not runs), Evaluate(skip=not predicts)
    return Recipe(model=model, quantize=quantize, imatrix=imatrix, evaluate=evaluate)


def _backend() -> GGUF:
    shard_bytes = parse_size(Publish().shard_size, "publish.shard_size")
    return GGUF(Split(shard_bytes), "give one with --imatrix", compares=True)


def _surveyed(name: str, work: Work) -> _KnownType:
    weights, settings = work.checked.weights, work.checked.settings.model_copy(update={"types": (name,)})
    needs_imatrix = fork = None
    try:
        plain = assign_types(weights, name, settings, has_imatrix=False)
        needs_imatrix = any(requires_imatrix(key, type, name) or needs_importance(type) for key, type in plain.items())
        [file] = replace(work.checked, settings=settings).tasks(work.importance)
    except UserError as error:
        return _KnownType(SurveyedType(name, None, None, 0, bool(needs_imatrix), str(error), fork, None))
    [made] = work.making([file]).files
    left = list(closure([*made, *made.compared, *(made.plain or [])]))
    found = estimate((), left, {})
    return _KnownType(
        SurveyedType(
            name,
            file.plan.size,
            file.plan.bpw,
            file.plan.n_shards,
            needs_imatrix,
            None,
            file.plan.fork,
            Making(found.ram_bytes, found.disk_bytes, None),
            programs=programs_of(file) if work.component.denoises else None,
        ),
        tuple((task.rate, task.cost.work) for task in left if task.cost.work),
    )


def _weights_bytes(source: SourceModel) -> int:
    if source.remote is not None:
        return sum(source.remote.files[file].size for file in source.weight_files)
    return sum(tensor.nbytes for tensor in source.checkpoint.tensors.values())


def _license(card: Mapping[str, Any]) -> License:
    tag, name, link = (card.get(key) for key in ("license", "license_name", "license_link"))
    tags = tag if isinstance(tag, list) else [tag]
    return License(
        ", ".join(str(each) for each in tags if each) or None,
        name if isinstance(name, str) else None,
        link if isinstance(link, str) else None,
        without_derivatives(card) is None,
    )

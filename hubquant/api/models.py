"""What can be known of models before anything is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.api.arguments import check_least, listed, open_store, quietly
from hubquant.bars import Bars
from hubquant.errors import UserError
from hubquant.recipe.schema import ModelReference

if TYPE_CHECKING:
    import torch

    from hubquant.backends.libraries.library import Moment
    from hubquant.backends.rules import Offload
    from hubquant.commands.detect import Detection
    from hubquant.commands.survey import Survey
    from hubquant.devices import Device
    from hubquant.hub.access import Token
    from hubquant.hub.listing import FoundModel


def survey(
    model: str | Path | ModelReference,
    *,
    revision: str | None = None,
    token: Token = None,
    to: str | None = None,
    store: Path | str | None = None,
    progress: Bars = "auto",
) -> Survey:
    """What a Hub id, a folder or a GGUF file would become, from metadata alone: no weights are downloaded.

    Whether it is supported or why not, its licence, whether it is gated and ``token`` has access, the exact size of a
    file of every type, the memory that running it takes (``.fits(8 * 2**30)``), and what making it takes here.
    ``print(survey)`` shows it.

    A ``hubquant.recipe.ModelReference(id=…)`` is on the Hub in any case, whatever lies in the current folder.

    ``token`` is a user's own, None for this machine's and False for none: whoever serves several people passes each
    one's token, or False. A commit that was surveyed lately is remembered; whether the token may see it is asked of
    the Hub each time. ``to`` is the repository to look at for files that are published already, by default
    ``<model>-GGUF`` of the token's account.

    Raises ``HubAccessError`` for a model that is not there or may not be seen, and ``HubquantError`` else.
    """
    reference = _reference(model, revision)
    with quietly(progress) as seen:
        from hubquant.commands.survey import survey as look

        return look(reference, open_store(store), seen, token, to)


def search(text: str, *, limit: int = 20, token: Token = None) -> list[FoundModel]:
    """At most ``limit`` models of the Hub with ``text`` in their names, those with the most downloads first.

    ``unsuitable`` of each says why it can be no source, as far as that is known without opening it: None is no promise.
    ``token`` as for :func:`survey`. Raises ``HubquantError``.
    """
    check_least("limit", limit, 1)
    from hubquant.commands.search import search as look

    return look(text, limit, token)


def detect(
    model: str | Path | ModelReference, *, revision: str | None = None, token: Token = None, progress: Bars = "auto"
) -> Detection:
    """Whether a Hub id, a folder, a safetensors or a GGUF file is quantized already, from metadata alone.

    By which library, to what, and how that is known: one of ``.components`` for each component of a pipeline.
    ``.check()`` raises ``CheckpointError`` where files contradict each other, and for integers that nothing explains.
    ``print(detection)`` shows it. ``token`` as for :func:`survey`. Raises ``HubquantError``.
    """
    reference = _reference(model, revision)
    with quietly(progress) as seen:
        from hubquant.commands.detect import detect as look

        return look(reference, seen, token)


def load(
    model: str | Path | ModelReference,
    quantize: str | None = None,
    when: Moment = "load",
    offload: Offload = "none",
    device: Device = "auto",
    skip_modules: Sequence[str] = (),
    components: Sequence[str] | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    revision: str | None = None,
    token: Token = None,
    progress: Bars = "auto",
) -> Any:
    """A model of transformers or a pipeline of diffusers in eval mode, ``quantize``d to a type such as quanto:qint8.

    ``model`` is a Hub id, a folder, or a safetensors or GGUF file. One that is quantized already is recognised from
    metadata, loaded by its own library, and never quantized again. ``when`` weights are quantized: while they are
    loaded (``load``), or ``after`` that. Modules whose names hold one of ``skip_modules`` stay floats; of a pipeline
    its denoisers are quantized, or the ``components`` of these names. ``dtype`` is that of what is not quantized.

    ``offload`` is where weights are that are not computed with: ``none`` (all on the ``device``), ``cpu`` (a whole
    model in memory until it is called), ``sequential`` (layer by layer), ``group`` (groups of layers), ``disk``, or
    ``balanced`` over all devices. What goes to the disk is removed with the model. What a library cannot do raises
    ``NotSupportedYet`` before weights are read, with what can be done instead.

    ``token`` as for :func:`survey`. Raises ``HubquantError``.
    """
    _choice("when", when, ("load", "after"))
    _choice("offload", offload, ("none", "cpu", "sequential", "balanced", "disk", "group"))
    reference = _reference(model, revision)
    with quietly(progress) as seen:
        from hubquant.backends.loading.asked import Asked
        from hubquant.backends.loading.load import load as look
        from hubquant.devices import chosen_device

        named = None if components is None else tuple(listed(components))
        place: Any = chosen_device(device)
        asked = Asked(quantize, when, offload, place, tuple(listed(skip_modules)), named, _dtype(dtype))
        return look(reference, asked, seen, token)


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    import torch

    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found is not None and isinstance(found, torch.dtype) and found.is_floating_point:
        return found
    if dtype is None:
        return None
    raise UserError(f"there is no dtype {dtype!r} of floats", hint="choose float32, bfloat16 or float16")


def _choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{name} cannot be {value!r}", hint=f"choose {', '.join(choices)}")


def _reference(model: str | Path | ModelReference, revision: str | None) -> ModelReference:
    from hubquant.commands.flags import model as reference

    found = model if isinstance(model, ModelReference) else reference(str(model))
    if revision is None:
        return found
    if found.id is None:
        raise UserError(f"{found.display_name} has no revisions", hint="leave revision out")
    return found.model_copy(update={"revision": revision})

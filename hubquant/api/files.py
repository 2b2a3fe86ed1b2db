"""Make, show and publish files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubquant.api.arguments import Names, Types, checked, listed, listed_types, open_store, quietly
from hubquant.bars import Bars, shown
from hubquant.errors import UserError
from hubquant.mix import check_settings, file_type

if TYPE_CHECKING:
    from hubquant.commands.job import MadeFile
    from hubquant.gguf_file.describe import Description
    from hubquant.hub.push import Pushed


def convert(
    model: str | Path,
    *,
    out: Path | str | None = None,
    type: str | None = None,
    model_name: str | None = None,
    metadata: Mapping[str, Any] | Path | str | None = None,
    vocab_only: bool = False,
    base: str | None = None,
    component: str | None = None,
    mmproj: bool = False,
    merge: str | None = None,
    target: str | None = None,
    allow_pickle: bool = False,
    split_max_size: str | None = None,
    split_max_tensors: int | None = None,
    pre_tokenizer: str | None = None,
    no_mtp: bool = False,
    store: Path | str | None = None,
    progress: Bars = "auto",
) -> MadeFile:
    """Convert a Hub id, a folder or a GGUF file to F32, F16, BF16 or Q8_0, by default as the source is; or a LoRA
    adapter of peft, by default to F32, whose ``base`` model is by default the one that it names.

    ``out`` is the file, with the type for {ftype} and {FTYPE}, or a folder that is there, by default the current one.
    ``model_name`` is general.name, and ``metadata`` further keys, such as {"general.author": "me"}, or a JSON file of
    them. ``vocab_only`` writes the vocabulary alone. ``component`` is the part of a diffusers pipeline, such as
    text_encoder_2, and with ``mmproj`` it is what a multimodal model sees or hears with. With ``merge`` an adapter is
    read in this base, a Hub id or a folder, as one model. ``target`` is the model that a drafter drafts for. With
    ``no_mtp`` layers that predict further tokens are left out. With ``allow_pickle`` weights may be in
    pytorch_model.bin, of which tensors are read and nothing is run. The file is cut at ``split_max_size`` ("5G") and
    after ``split_max_tensors``.

    Returns its path, type and size in bytes. Raises ``HubquantError``.
    """
    from hubquant.commands.flags import CONVERTED_TYPES, split_settings
    from hubquant.commands.flags import model as reference

    chosen = None if type is None or type == "auto" else file_type(type).name
    if chosen is not None and chosen not in CONVERTED_TYPES:
        raise UserError(
            f"convert does not write {chosen}", hint=f"hubquant.quantize({str(model)!r}, {chosen!r}, out=…)"
        )
    split = split_settings(split_max_size, split_max_tensors)
    opened = open_store(store)
    with quietly(progress) as seen:
        from hubquant.commands.files import Converting, Placing
        from hubquant.commands.files import convert as prepare
        from hubquant.commands.job import carry_out
        from hubquant.convert.rules.authorship import authorship, read_authorship
        from hubquant.recipe.schema import Convert

        own = read_authorship(Path(metadata)) if isinstance(metadata, str | Path) else authorship(metadata or {})
        named = {} if model_name is None else authorship({"general.name": model_name})
        how = Convert(pre_tokenizer=pre_tokenizer, no_mtp=no_mtp)
        wanted = Converting(chosen, how, {**own, **named}, vocab_only, base, mmproj)
        placing = Placing(Path(out or ""), split=split)
        named_model = reference(str(model), component, pickles=allow_pickle, merge=merge, target=target)
        [made] = carry_out(prepare(named_model, wanted, placing, opened, seen), opened, seen)
    return made


def quantize(
    model: str | Path,
    types: Types,
    *,
    out: Path | str,
    component: str | Sequence[str] = (),
    name: str | None = None,
    imatrix: Names = (),
    include_weights: str | Sequence[str] = (),
    exclude_weights: str | Sequence[str] = (),
    mode: Literal["exact", "best"] = "best",
    tensor_type: Mapping[str, str] | None = None,
    pure: bool = False,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
    leave_output_tensor: bool = False,
    prune_layers: Sequence[int] = (),
    override_kv: str | Sequence[str] = (),
    keep_split: bool = False,
    split_max_size: str | None = None,
    split_max_tensors: int | None = None,
    allow_fork_types: bool = False,
    allow_requantize: bool = False,
    merge: str | None = None,
    target: str | None = None,
    allow_pickle: bool = False,
    pre_tokenizer: str | None = None,
    no_mtp: bool = False,
    store: Path | str | None = None,
    progress: Bars = "auto",
) -> list[MadeFile]:
    """Write a Hub id, a folder or a GGUF file in every one of ``types``, reading its weights once.

    ``component`` is the part of a diffusers pipeline, such as text_encoder_2, or several; by default its denoiser.
    ``out`` is a folder, in which files are called ``name`` ("{model}-{type}" by default), or with one type the .gguf
    file. ``imatrix`` names files or ``hub:org/repo/file``; several are added up. With ``include_weights`` or
    ``exclude_weights`` it is used for weights only whose GGUF name holds one of these, or none. ``mode`` "best"
    searches for the least error, "exact" gives llama.cpp's bytes. ``tensor_type`` is a tensor type by a regular
    expression for names of tensors; the first that matches wins. ``pure`` gives every tensor the type's own,
    ``leave_output_tensor`` leaves output.weight as it is, ``prune_layers`` some layers out. ``override_kv`` is
    metadata, as "KEY=TYPE:VALUE" with int, float, bool or str. With ``no_mtp`` layers that predict further tokens are
    left out. ``target`` is the model that a drafter drafts for. Files are cut at ``split_max_size`` ("5G") and after
    ``split_max_tensors``, or with ``keep_split`` as the source is.

    Returns the path, type and size in bytes of each file. Raises ``HubquantError``.
    """
    rules = [{"match": match, "type": type} for match, type in (tensor_type or {}).items()]
    recipe = checked(
        {
            "types": ("quantize.types", listed_types(types)),
            "imatrix": ("imatrix.files", listed(imatrix)),
            "include_weights": ("imatrix.include_weights", listed(include_weights)),
            "exclude_weights": ("imatrix.exclude_weights", listed(exclude_weights)),
            "mode": ("quantize.mode", mode),
            "tensor_type": ("quantize.rules", rules),
            "pure": ("quantize.pure", pure),
            "output_tensor_type": ("quantize.output_tensor", output_tensor_type),
            "token_embedding_type": ("quantize.token_embedding", token_embedding_type),
            "prune_layers": ("quantize.prune_layers", list(prune_layers)),
            "leave_output_tensor": ("quantize.leave_output_tensor", leave_output_tensor),
            "override_kv": ("quantize.override_kv", listed(override_kv)),
            "allow_fork_types": ("quantize.allow_fork_types", allow_fork_types),
            "allow_requantize": ("quantize.allow_requantize", allow_requantize),
        }
    )
    settings, matrix = check_settings(recipe.quantize), recipe.imatrix
    if (matrix.include_weights or matrix.exclude_weights) and not matrix.given:
        raise UserError("there is no importance matrix to choose entries of", hint="add imatrix=FILE")
    from hubquant.commands.flags import models, split_settings

    split = split_settings(split_max_size, split_max_tensors, keep_split)
    opened = open_store(store)
    with quietly(progress) as seen:
        from hubquant.commands.files import Placing
        from hubquant.commands.files import quantize as prepare
        from hubquant.commands.job import carry_out
        from hubquant.recipe.schema import Convert

        placing, how = Placing(Path(out), name, split, keep_split), Convert(pre_tokenizer=pre_tokenizer, no_mtp=no_mtp)
        references = models(str(model), listed(component), pickles=allow_pickle, merge=merge, target=target)
        job = prepare(references, settings, matrix, how, placing, opened, seen)
        return carry_out(job, opened, seen)


def publish(
    folder: Path | str,
    *,
    to: str,
    private: bool = False,
    branch: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    prune: bool = False,
    i_have_permission: bool = False,
    progress: Bars = "auto",
) -> Pushed:
    """Upload what a run made in ``folder`` to the Hub: files first, the card last. What is there is not sent again.

    ``private`` matters for a new repository only. ``branch`` is made of main if it is not there; ``create_pr`` opens a
    pull request, or adds to your open one of that title, which is ``commit_message``. ``prune`` removes published
    files that hubquant made of types which ``folder`` has no more. ``i_have_permission`` publishes against a licence
    without derivatives: the authors allow it.

    Raises ``HubquantError``.
    """
    recipe = checked(
        {
            "to": ("publish.to", to),
            "private": ("publish.private", private),
            "branch": ("publish.branch", branch),
            "create_pr": ("publish.create_pr", create_pr),
            "commit_message": ("publish.commit_message", commit_message),
            "prune": ("publish.prune", prune),
            "i_have_permission": ("publish.i_have_permission", i_have_permission),
        }
    )
    seen = shown(progress)
    from hubquant.commands.publish import publish as push

    return push(Path(folder), recipe.publish, seen)


def inspect(file: Path | str) -> Description:
    """Metadata, tensors and types of a GGUF file, or of all its shards. Raises ``GGUFError``."""
    from hubquant.gguf_file import GGUFFile
    from hubquant.gguf_file.describe import describe

    return describe(GGUFFile.open(Path(file)))

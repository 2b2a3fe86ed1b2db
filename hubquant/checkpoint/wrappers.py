"""What training wrappers leave in the names of tensors."""

from __future__ import annotations

import re
from collections.abc import Collection

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.headers import listed
from hubquant.checkpoint.text_tower import is_multimodal
from hubquant.errors import CheckpointError
from hubquant.units import counted

_ANYWHERE = r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."  # torch's
_OUTERMOST = ("module.", "_forward_module.", "base_model.model.", "language_model.")
_DOUBLED = r"^model\.(model|language_model)\."
_ADAPTER = re.compile(
    r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer|modules_to_save|original_module"
    r"|hada_w[12]_[ab]|lokr_w[12]|ia3_l|oft_r|boft_[RS]|vera_lambda_[bd])(\.|$)"
)
_PARAMETRIZED = ".parametrizations."  # of torch, which keep the weight itself as it was: Jina's tasks are such adapters


def without_wrappers(checkpoint: Checkpoint) -> Checkpoint:
    """The same tensors under the names that the model itself has for them.

    Raises ``CheckpointError`` where an adapter is among them that is not merged.
    """
    adapted = [name for name in checkpoint.tensors if _ADAPTER.search(name) and _PARAMETRIZED not in name]
    if adapted:
        raise CheckpointError(
            f"an adapter is not merged into this model: {listed(adapted)}",
            why=f"{counted(len(adapted), 'tensor is one', 'tensors are those')} of an adapter and what it wraps",
            hint="load it with peft as it was trained, then merge_and_unload() and save_pretrained(DIR), and name DIR",
        )
    plain = checkpoint.renamed([(_ANYWHERE, "")])
    while prefix := _common_prefix(plain.tensors):
        plain = plain.renamed([(f"^{re.escape(prefix)}", "")])
    if _is_doubled(plain.tensors) and not is_multimodal(plain.config):
        plain = plain.renamed([(_DOUBLED, "model.")])
    if plain.tensors.keys() == checkpoint.tensors.keys():
        return checkpoint
    first, now = next((old, new) for old, new in zip(checkpoint.tensors, plain.tensors, strict=True) if old != new)
    return plain.noting(f"tensors are read without the names of what wrapped the model: {listed([first])} is {now}")


def _is_doubled(names: Collection[str]) -> bool:
    """Whether the model was wrapped once more, and the head beside it was not."""
    inner = [name for name in names if name.startswith("model.")]
    return bool(inner) and all(re.match(_DOUBLED, name) for name in inner)


def _common_prefix(names: Collection[str]) -> str | None:
    if all(name.startswith("model.") for name in names) and any(name.startswith("model.model.") for name in names):
        return "model."
    return next((each for each in _OUTERMOST if names and all(name.startswith(each) for name in names)), None)

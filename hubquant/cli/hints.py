"""Hints speak of settings as ``hubquant run`` takes them; other commands have flags for some of these."""

from __future__ import annotations

from collections.abc import Mapping

_CHUNKS = {"set a smaller chunk_size": "a smaller --chunk-size"}
_MERGE = {"--set model.merge=": "--merge "}
_COMPONENT = {"leave model.component out": "leave --component out"}
_SOURCE = {**_COMPONENT, **_MERGE, "--set model.allow_pickle=true": "--allow-pickle"}
_NEEDS_FILE = {"add --set model.allow_pickle=true": "make a GGUF file with hubquant convert --allow-pickle"}
_SETTINGS = {
    "--set evaluate.skip=true": "--no-eval",
    "leave imatrix.offload": "leave --offload",
    **_COMPONENT,
    **_MERGE,
}
FLAGS: Mapping[str, Mapping[str, str]] = {
    "run": _SETTINGS,
    "plan": _SETTINGS,
    "quantize": {
        "--set quantize.allow_requantize=true": "--allow-requantize",
        "--set quantize.allow_fork_types=true": "--allow-fork-types",
        "with a rule": "with --tensor-type",
        **_SOURCE,
    },
    "convert": {
        "add --set quantize.allow_requantize=true": "use hubquant quantize with --allow-requantize",
        **_SOURCE,
    },
    "imatrix collect": {"leave imatrix.offload out": "leave --offload out", **_CHUNKS, **_NEEDS_FILE},
    "imatrix show": {"with -o": "with --plot"},
    "evaluate baseline": {**_CHUNKS, **_NEEDS_FILE},
    "evaluate ppl": {**_CHUNKS, **_NEEDS_FILE},
}


def fitted(hint: str, command: str) -> str:
    """``hint`` with the flags of ``command``."""
    for setting, flag in FLAGS.get(command, {}).items():
        hint = hint.replace(setting, flag)
    return hint

"""What llama.cpp or diffusers made of the files, and what llama.cpp was not asked, in sentences for a terminal and
for the card."""

from __future__ import annotations

from collections.abc import Sequence

from hubquant.llamacpp.process import HOW_TO_ADD, NOT_INSTALLED
from hubquant.publish.fed_back import feedback_checks
from hubquant.publish.in_library import library_checks
from hubquant.publish.recommendation import MeasuredFile
from hubquant.units import number


def checks(files: Sequence[MeasuredFile]) -> list[str]:
    """All that is told of the files beside measurements."""
    return [*llama_cpp_checks(files), *diffusers_checks(files), *library_checks(files), *feedback_checks(files)]


def llama_cpp_checks(files: Sequence[MeasuredFile]) -> list[str]:
    """Without files that are not for llama.cpp, and those that only a fork loads, which are warned of elsewhere."""
    common = [file for file in files if file.fork is None and file.runtime]
    checked = [file for file in common if file.runtime and not file.runtime.skipped]
    sentences = []
    if checked:
        n_same = sum(file.runtime.n_same_top for file in checked if file.runtime)
        n_prompts = sum(file.runtime.n_prompts for file in checked if file.runtime)
        sentences.append(
            f"llama.cpp loads {_names(checked, files)}, cuts a text in many languages into the same tokens as "
            f"transformers, and for {n_same} of {n_prompts} prompts finds the same next token most likely as the "
            "file's weights do in transformers."
        )
    reasons = {file.file: (file.runtime.skipped if file.runtime else None) or "" for file in common}
    for reason in dict.fromkeys(reasons[file.file] for file in common if file not in checked):
        unchecked = [file for file in common if file not in checked and reasons[file.file] == reason]
        sentences.append(
            f"Not checked, whether llama.cpp loads {_names(unchecked, files)}, tokenizes as transformers does and "
            f"predicts the same{': ' + reason if reason else ''}{'; ' + HOW_TO_ADD if reason == NOT_INSTALLED else ''}."
        )
    return sentences


def diffusers_checks(files: Sequence[MeasuredFile]) -> list[str]:
    """Of files that diffusers was asked to load."""
    found = {file.file: file.in_diffusers for file in files if file.in_diffusers}
    if not found:
        return []
    versions = " and ".join(sorted({check.version for check in found.values()}))
    largest = max(check.error for check in found.values())
    names = _names([file for file in files if file.file in found], files)
    return [
        f"diffusers {versions} loads {names}, and predicts what the file's weights do: its first prediction differs by "
        f"{number(100 * largest)} % at most."
    ]


def llama_cpp_builds(files: Sequence[MeasuredFile]) -> list[str]:
    """The builds of llama.cpp that the files were checked with, such as b11549, as far as they are known."""
    versions = {file.runtime.version for file in files if file.runtime and file.runtime.version}
    return [f"llama.cpp b{version.split('.')[-1]} (xllamacpp {version})" for version in sorted(versions)]


def _names(chosen: Sequence[MeasuredFile], files: Sequence[MeasuredFile]) -> str:
    """``chosen`` of ``files``."""
    if len(chosen) == len(files):
        return "every file"
    others = sum(file.fork is None for file in files) > len(chosen)
    return ", ".join(file.type for file in chosen) if others else "every other file"

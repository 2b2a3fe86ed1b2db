"""What a user types or pastes for a model: a path, a Hub id, an address of the Hub."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from hubquant.disk import user_path
from hubquant.errors import UserError
from hubquant.recipe.names import HUB_ID

GGUF_SUFFIX = ".gguf"
_HOSTS = re.compile(r"((https?|ssh)://)?(git@|www\.)?(huggingface\.co|hf\.co)[/:]+")
_HF = "hf://"
_PAGES = ("tree", "blob", "resolve", "raw", "commit", "commits", "discussions", "edit")
_WITH_REVISION = ("tree", "blob", "resolve", "raw", "commit", "commits")
_OTHERS = {"datasets": "dataset", "spaces": "Space", "collections": "collection", "papers": "paper"}
_SAFETENSORS = ".safetensors"
_SINGLE = f"model{_SAFETENSORS}"
_SINGLE_FILES = (_SAFETENSORS, ".sft", ".ckpt", ".pt", ".pth")
_PICKLE = re.compile(r"diffusion_pytorch_model.*\.bin")  # opening it says what may be done
_NAMES_A_FILE = re.compile(r"^[^/]+/$|\.(safetensors|bin|ckpt|json|pth?|txt|zip)$")
_WITH_TYPE = re.compile(r"[\w.-]+/[\w.-]+:[A-Z0-9_]+", re.ASCII)  # as Ollama and llama.cpp name files on the Hub
_OF_A_MODEL = re.compile(
    r"config\.json|model_index\.json|(diffusion_pytorch_)?model(-\d{5}-of-\d{5})?\.safetensors"
    r"|(diffusion_pytorch_)?model\.safetensors\.index\.json"
)


def model_reference(text: str) -> dict[str, str]:
    """The fields of a ``ModelReference``.

    What exists here is a folder, a GGUF file or a file of a model's folder; what looks like a path is one; anything
    else is a Hub id, perhaps with a revision, or an address of the Hub. Raises ``UserError`` for an address of
    something that is no model, and for a file that is none.
    """
    if os.path.exists(user_path(text)):
        return _local(text)
    if not (address := _address(text)):
        if text.endswith(GGUF_SUFFIX):
            return {"file": text}
        if text.startswith((".", "/", "~")) or "\\" in text:
            return {"folder": text}
        if _NAMES_A_FILE.search(text):
            raise UserError(f"there is no {text}", hint="check the path, or name a Hub id such as Qwen/Qwen3-0.6B")
    return _on_the_hub(text, address or text)


def is_local(text: str) -> bool:
    """Whether ``text`` names no model of the Hub, but what is or was on this machine."""
    try:
        return "id" not in model_reference(text)
    except UserError:
        return True


def is_model(text: str) -> bool:
    """Whether ``text`` can be a model's name, address, folder or GGUF file."""
    plain = text.partition("@")[0].rstrip("/")
    return bool(
        text.endswith(GGUF_SUFFIX) or os.path.exists(user_path(text)) or _address(text) or HUB_ID.fullmatch(plain)
    )


def _local(text: str) -> dict[str, str]:
    path = user_path(text)
    if os.path.isdir(path):
        return {"folder": text}
    if text.endswith(GGUF_SUFFIX):
        return {"file": text}
    if path.name not in ("config.json", _SINGLE) and (path.parent / _SINGLE).is_file():
        raise UserError(f"{text} is not the model", why=f"of this folder {_SINGLE} is", hint=f"name {path.parent}")
    if _OF_A_MODEL.fullmatch(path.name):
        return {"folder": str(path.parent)}
    if path.suffix in _SINGLE_FILES or _PICKLE.fullmatch(path.name):
        return {"file": text}
    raise UserError(f"{text} is no model", why="it is a file of another kind", hint="name the folder of a model")


def _address(text: str) -> str | None:
    """What follows the Hub's name in an address of it."""
    if text.startswith(_HF):
        return text.removeprefix(_HF)
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") + "/"
    if len(endpoint) > 1 and text.startswith(endpoint):
        return text.removeprefix(endpoint)
    match = _HOSTS.match(text)
    return text[match.end() :] if match else None


def _on_the_hub(text: str, address: str) -> dict[str, str]:
    parts = [unquote(part) for part in re.split(r"[?#]", address)[0].split("/") if part]
    if parts and parts[0] == "models":
        del parts[0]
    if parts and parts[0] in _OTHERS and len(parts) > 1:
        raise UserError(
            f"{text} is a {_OTHERS[parts[0]]}, not a model",
            hint="name a model, such as Qwen/Qwen3-0.6B"
            + (", and the dataset in calibration.sources" if parts[0] == "datasets" else ""),
        )
    if parts:
        parts[-1] = parts[-1].removesuffix(".git")
    page = next((n for n, part in enumerate(parts[:3]) if n and part in _PAGES), len(parts))
    rest = parts[page + 1 :] if page < len(parts) else parts[2:]
    id, _, revision = "/".join(parts[: min(page, 2)]).partition("@")
    if page < len(parts) and parts[page] in _WITH_REVISION and rest:
        size = 3 if rest[:2] == ["refs", "pr"] else 1
        revision, rest = "/".join(rest[:size]), rest[size:]
    elif page < len(parts):
        rest = []
    if not HUB_ID.fullmatch(id):
        raise UserError(
            f"{text} is no model",
            why="there is no such file or folder, and a Hub id is like Qwen/Qwen3-0.6B",
            hint=_type_apart(id) if _WITH_TYPE.fullmatch(id) else "check the spelling",
        )
    if rest and not _OF_A_MODEL.fullmatch("/".join(rest)):
        raise _inside(id, revision, "/".join(rest))
    return {"id": id, **({"revision": revision} if revision else {})}


def _type_apart(id: str) -> str:
    return f"name {id.partition(':')[0]}, and the type with -t"


def _inside(id: str, revision: str, path: str) -> UserError:
    command = f"hf download {id} {path}" + (f" --revision {revision}" if revision else "") + " --local-dir ."
    if path.endswith(GGUF_SUFFIX):
        return UserError(
            f"{path} is a GGUF file on the Hub",
            why="such files are read from this machine only",
            hint=f"{command}, and name {path}",
        )
    name = path.rpartition("/")[2]
    if path.endswith(_SINGLE_FILES) and not _OF_A_MODEL.fullmatch(name):
        return UserError(
            f"{path} is a single file on the Hub",
            why=f"such files are read from this machine only, and {id} as a whole",
            hint=f"{command}, and name {path}",
        )
    return UserError(
        f"{path} is within the repository {id}",
        why="only the files at a repository's top are read",
        hint=f"name {id}, or download this folder and name it",
    )

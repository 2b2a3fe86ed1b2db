"""Special tokens, what is put around a text, and chat templates, from the files beside a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from hubquant.errors import TokenizerError
from hubquant.vocab.files import MAX_FILE_BYTES, ROLES, Files, Processor
from hubquant.vocab.vocabulary import DEFAULT_TEMPLATE


def special_ids(files: Files, ids: Mapping[str, int]) -> dict[str, int]:
    """Ids by role: texts that tokenizer_config.json names, then the numbers of config.json and generation_config.json.

    Where generation stops at more tokens than eos, two others become eot and eom: llama.cpp stops at them too. Raises
    ``TokenizerError`` when the tokens that end or begin a text have no embedding.
    """
    rows = files.facts.rows
    texts = {id: text for text, id in ids.items() if rows is None or id < rows}
    specials = {}
    for role, text in files.named_specials.items():
        if ids[text] in texts:
            specials[role] = ids[text]
        elif role == "eos" and any(token.content == text for token in files.added_tokens):
            raise TokenizerError(
                f"the token that ends a text, {text!r}, has no embedding",
                why=f"its id is {ids[text]}, and the model has {rows} rows",
                hint=f"resize the model's embeddings to {max(ids.values()) + 1} rows and train it, or take the "
                "tokenizer files of the model that it was made from",
            )
    for source in (files.config, files.config.text_config, files.generation_config):
        for role in ROLES:
            known = [id for id in source.of(role) if id in texts] if source else []
            if known:
                specials.setdefault(role, known[0])
    special = {ids[text] for text in files.special_texts} | {token.id for token in files.added_tokens if token.special}
    for role, id in files.facts.ids.items():
        if id in texts and id in special:
            specials.setdefault(role, id)
    stops = files.generation_config.of("eos") or [id for id in _stops(files) if id in special]
    for id in stops:
        if id in texts and id != specials.get("eos"):
            specials.setdefault("eom" if "eom" in texts[id] or "eot" in specials else "eot", id)
    return {role: specials[role] for role in (*ROLES, "eot", "eom") if role in specials}


def notes(files: Files, ids: Mapping[str, int]) -> tuple[str, ...]:
    """What of the tokenizer the file cannot hold, for the plan."""
    rows = files.facts.rows
    if rows is None:
        return ()
    found = []
    if lost := sorted((text for text, id in ids.items() if id >= rows), key=ids.__getitem__):
        written = [text for text in lost if any(text in template for template in chat_templates(files).values())]
        template = f"; the chat template writes {listed(written)}" if written else ""
        are = "token has no embedding and is" if len(lost) == 1 else "tokens have no embedding and are"
        found.append(f"{len(lost)} {are} left out: {listed(lost)}{template}")
    known = {id for id in ids.values() if id < rows}
    if strays := [id for id in _stops(files) if id not in known]:
        found.append(f"generation stops at {listed(map(str, strays))}, which is no token of the model")
    if named := [*dict.fromkeys(_named_numbers(files, known))]:
        found.append(f"tokens are named that the model does not have: {listed(named)}")
    return tuple(found)


def around(files: Files, specials: dict[str, int], *, default_bos: bool) -> tuple[bool, bool]:
    """Whether bos and eos are put around a text. ``specials`` learns the tokens that the post-processor uses as such.

    tokenizer.json's template decides, as in transformers; without one, tokenizer_config.json's add_bos_token does.
    Where it has several tokens at an end, as GLM's, there are none in llama.cpp: its chat templates write them. Raises
    ``TokenizerError`` for a token without an embedding.
    """
    template = _template(files.post_processor)
    if template is None:
        add_bos, add_eos = files.tokenizer_config.add_bos_token, files.tokenizer_config.add_eos_token
        return (default_bos if add_bos is None else add_bos) and "bos" in specials, bool(add_eos) and "eos" in specials
    text_at = template.index(None) if None in template else len(template)
    before, after = template[:text_at], template[text_at + 1 :]
    before, after = (parts if len(parts) == 1 else [] for parts in (before, after))
    for role, parts in (("bos", before), ("eos", after)):
        for id in parts:
            if id is None:
                continue
            if files.facts.rows is not None and id >= files.facts.rows:
                raise TokenizerError(
                    f"the tokenizer puts token {id} around every text", why=f"the model has {files.facts.rows} rows"
                )
            if role == "eos" and specials.get("eos") not in (None, id):
                specials.setdefault("eot", specials["eos"])
            specials[role] = id
    return bool(before), bool(after)


def parts_twice(files: Files) -> bool:
    """Whether two equal tokens part the texts of a pair, as RoBERTa has them: llama.cpp then writes sep after eos."""
    if files.post_processor is None:
        return False
    for part in reversed([files.post_processor, *files.post_processor.processors]):
        if part.type == "TemplateProcessing":
            between = [piece.special.id if piece.special else None for piece in part.pair]
            texts = [place for place, piece in enumerate(between) if piece is None]
            inner = between[texts[0] + 1 : texts[1]] if len(texts) == 2 else []
            return len(inner) == 2 and inner[0] == inner[1]
        if part.type == "RobertaProcessing":
            return True
    return False


def chat_templates(files: Files) -> dict[str, str]:
    """By name; files of their own come before tokenizer_config.json, as in transformers."""
    folder = files.folder
    paths = {DEFAULT_TEMPLATE: folder / "chat_template.jinja"}
    paths |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    entry = files.tokenizer_config.chat_template or files.chat_template_json
    if isinstance(entry, str):
        entry = {DEFAULT_TEMPLATE: entry}
    if isinstance(entry, list):
        entry = {each.name: each.template for each in entry}
    found = dict(entry or {})
    for name, path in paths.items():
        if path.is_file() and path.stat().st_size <= MAX_FILE_BYTES:
            found[name] = path.read_text(encoding="utf-8", errors="replace")
    return {_key_name(name): text for name, text in found.items() if text}


def listed(texts: Iterable[str], most: int = 5) -> str:
    shown = [*texts]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def _stops(files: Files) -> list[int]:
    """Where generation stops: generation_config.json decides, as in transformers."""
    return files.generation_config.of("eos") or [
        id for source in (files.config, files.config.text_config) if source for id in source.of("eos")
    ]


def _named_numbers(files: Files, known: Collection[int]) -> Iterator[str]:
    """Roles that only a number names, of no token in ``known``. -1 is a habit and means none."""
    for source in filter(None, (files.config, files.config.text_config, files.generation_config)):
        for role in ROLES:
            if role != "eos" and role not in files.named_specials:
                yield from (f"{id} as {role}" for id in source.of(role) if id >= 0 and id not in known)


def _key_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name)


def _template(processor: Processor | None) -> list[int | None] | None:
    """The tokens that the last template puts around a text, which is None; ``None`` without a template."""
    if processor is None:
        return None
    for part in reversed(processor.processors):
        if (found := _template(part)) is not None:
            return found
    if processor.type == "TemplateProcessing":
        return [_template_id(piece.special.id, processor) if piece.special else None for piece in processor.single]
    if processor.type not in ("BertProcessing", "RobertaProcessing"):
        return None
    first, last = (pair[1] if pair else None for pair in (processor.cls, processor.sep))
    if isinstance(first, int) and isinstance(last, int):
        return [first, None, last]
    raise TokenizerError("the tokenizer's post-processor cannot be read", why="its cls and sep are no pairs")


def _template_id(name: str, processor: Processor) -> int:
    ids = processor.special_tokens[name].ids if name in processor.special_tokens else []
    if len(ids) != 1:
        raise TokenizerError(
            "the tokenizer's post-processor cannot be read", why=f"special token {name!r} has no single id"
        )
    return ids[0]

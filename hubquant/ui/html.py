"""What the pages show, as HTML. Everything that is not ours is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hubquant.errors import HubquantError
from hubquant.publish.card import HUB
from hubquant.publish.html import text
from hubquant.ui.advice import best_within, in_words, offered
from hubquant.units import duration, size

if TYPE_CHECKING:
    from hubquant.commands.survey import Survey, SurveyedType
    from hubquant.hub.listing import FoundModel
    from hubquant.ui.desk import Estimate
    from hubquant.ui.identity import Visitor

GATED = {"auto": "asks for consent", "manual": "asks its authors"}


def message(what: str, why: str | None = None, hint: str | None = None, *, kind: str = "error") -> str:
    """One message: what, why, and what to do next. Screen readers say an error at once."""
    role = "alert" if kind == "error" else "status"
    more = f"<p>{text(why)}</p>" if why else ""
    more += f'<p class="hq-hint">{text(hint)}</p>' if hint else ""
    return f'<div class="hq-message hq-{kind}" role="{role}"><strong>{text(what)}</strong>{more}</div>'


def error_message(error: HubquantError) -> str:
    return message(sentence(error.what), error.why and sentence(error.why), error.hint and sentence(error.hint))


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """``pairs`` of a plain name and HTML."""
    rows = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return f'<dl class="hq-facts">{rows}</dl>'


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """``rows`` of HTML; the columns ``numbers`` stand on the right. It scrolls by itself where the page is narrow."""
    right = set(numbers)

    def cells(row: Sequence[str], tag: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        shown = (
            f"<{tag}{scope}{' class=hq-number' if i in right else ''}>{cell}</{tag}>" for i, cell in enumerate(row)
        )
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(cells(row, "td") for row in rows)
    return (
        f'<div class="hq-scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead>{cells([text(name) for name in head], 'th')}</thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def link(address: str, shown: str) -> str:
    """To a page elsewhere, which opens beside this one."""
    return f'<a href="{text(address)}" target="_blank" rel="noopener noreferrer">{text(shown)}</a>'


def header(visitor: Visitor, *, by_token: bool) -> str:
    account = ""
    if by_token:
        account = f"<span>{text(visitor.name)}</span>" if visitor.name else "<span>on this machine</span>"
    elif visitor.owner is None:
        account = '<a class="hq-button" href="login/huggingface">Sign in with Hugging Face</a>'
    else:
        account = f'<span>{text(visitor.name or "")}</span> <a href="logout">Sign out</a>'
    return (
        '<header class="hq-header"><div><h1>hubquant</h1><p>Make a language model small enough for your machine, '
        f'and see what it costs.</p></div><nav aria-label="Account" class="hq-account">{account}</nav></header>'
    )


def found_models(found: Sequence[FoundModel]) -> list[tuple[str, str]]:
    """Labels and values for a choice of one."""
    labels = []
    for each in found:
        said = [f"{each.downloads:,} downloads"]
        said += [each.license] if each.license else []
        said += ["gated"] if each.gated else []
        said += ["private"] if each.private else []
        said += [each.unsuitable] if each.unsuitable else []
        labels.append((f"{each.id} · {' · '.join(said)}", each.id))
    return labels


def survey_card(survey: Survey, ram: float, vram: float) -> str:
    """``ram`` and ``vram`` in bytes, 0 for none."""
    parts = [f"<h2>{text(survey.model)}</h2>", _verdict(survey), facts(_facts(survey))]
    if survey.supported and survey.types:
        parts += [_best(survey, ram, vram), _types(survey, ram, vram)]
    if survey.notes:
        parts.append(f'<ul class="hq-notes">{"".join(f"<li>{text(note)}</li>" for note in survey.notes)}</ul>')
    return f'<section class="hq-survey" aria-label="About the model">{"".join(parts)}</section>'


def estimate_card(found: Estimate) -> str:
    rows = [
        (
            text(file.name),
            size(file.size) if file.size is not None else "decided by the rules",
            "takes the place of the published one" if file.published else "–",
        )
        for file in found.files
    ]
    pairs = [("All files", size(found.total))] if found.total else []
    pairs += [("Disk, at most", size(found.disk_bytes))] if found.disk_bytes else []
    pairs += [("Memory, at most", size(found.ram_bytes))] if found.ram_bytes else []
    pairs.append(("Time, at most", duration(max(1, found.seconds)) if found.seconds else "known after a first run"))
    pairs.append(("Published to", text(found.to) if found.to else "nowhere: you can download the files"))
    return (
        '<section aria-label="What this recipe comes to">'
        + message("Ready to start", "Nothing has been downloaded yet.", kind="good")
        + facts(pairs)
        + table("Files that will be made", ("File", "Size", "On the Hub"), rows, (1,))
        + "</section>"
    )


def _verdict(survey: Survey) -> str:
    if not survey.access:
        hint = f"Sign in, and ask for access at {HUB}/{survey.model}; then look again."
        return message("This model is gated, and you have no access yet", survey.unsupported, hint)
    if survey.unsupported is not None:
        return message("This model cannot be quantized", survey.unsupported, survey.hint)
    return message("This model is supported", "Every file will be checked and measured against it.", kind="good")


def _facts(survey: Survey) -> list[tuple[str, str]]:
    license = survey.license
    named = text(license.name or license.tag or "none named")
    if license.link and license.link.startswith(("https://", "http://")):
        named = link(license.link, license.name or license.tag or license.link)
    if not license.derivatives:
        named += " – allows no changed copies: files may not be published"
    pairs = [("Licence", named)]
    if survey.gated:
        access = "you have access" if survey.access else "you have no access"
        pairs.append(("Access", f"{GATED[survey.gated]}; {access}"))
    if survey.private:
        pairs.append(("Visible", "to you and your organization only"))
    if survey.parameters:
        pairs.append(
            (
                "Weights",
                f"{survey.parameters / 1e9:.2f} billion"
                if survey.parameters >= 1e9
                else f"{survey.parameters / 1e6:.1f} million",
            )
        )
    if survey.weights_bytes:
        pairs.append(("Download", size(survey.weights_bytes)))
    if survey.architecture:
        pairs.append(("Architecture", text(survey.architecture)))
    if survey.context and survey.context.longest:
        pairs.append(("Longest text", f"{survey.context.longest:,} tokens"))
    if (there := survey.published) is not None:
        names = ", ".join(file.type for file in there.files) or ("other files" if there.others else "nothing yet")
        page = link(f"{HUB}/{there.repository}", there.repository) if there.commit else text(there.repository)
        pairs.append(("Published", f"{page}: {text(names)}"))
    return pairs


def _best(survey: Survey, ram: float, vram: float) -> str:
    needed = survey.memory(survey.types[0].name)
    if needed is None or not max(ram, vram):  # of a diffusion model: it depends on the program and on the pictures
        return ""
    best = best_within(survey.types, max(ram, vram) - needed + (survey.types[0].size or 0))
    if best is None:
        return message("No file fits into that much memory", hint="Take a smaller model.", kind="note")
    where = "your graphics memory" if vram and (survey.memory(best.name) or 0) <= vram else "your memory"
    return message(
        f"{best.name} is the best that fits into {where}", f"{size(best.size or 0)}: {in_words(best)}", kind="note"
    )


def _types(survey: Survey, ram: float, vram: float) -> str:
    rows = [_type_row(survey, each, ram, vram) for each in offered(survey.types, every=False)]
    head = ("Type", "File", "Fits", "What to expect", "Memory to run", "Time here")
    return table("Sizes to choose from", head, rows, (1, 4, 5))


def _type_row(survey: Survey, each: SurveyedType, ram: float, vram: float) -> Sequence[str]:
    needed = survey.memory(each.name)
    fits = [name for name, bytes in (("graphics card", vram), ("memory", ram)) if bytes and needed and needed <= bytes]
    seconds = each.making.seconds if each.making else None
    shown = "–"
    if needed and (ram or vram):
        shown = f'<span class="hq-yes">✓ {", ".join(fits)}</span>' if fits else '<span class="hq-no">✗ no</span>'
    return (
        f"<strong>{text(each.name)}</strong>",
        size(each.size or 0),
        shown,
        text(in_words(each)) + (" (needs calibration)" if each.needs_imatrix else "") + text(_loading(each)),
        size(needed) if needed else "–",
        duration(max(1, seconds)) if seconds else "–",
    )


def _loading(each: SurveyedType) -> str:
    """Of a diffusion model, who draws with the file."""
    return "" if each.programs is None else f"; for {', '.join(each.programs) or 'no program known'}"


def sentence(said: str) -> str:
    return said[:1].upper() + said[1:]

"""Conversations as a model's chat template renders them: a program of a stranger, run under limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hubquant.errors import CalibrationError
from hubquant.limited import LimitError, Worker, WorkError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 3  # for one conversation; the real ones take a thousandth of that
MEMORY = 1 << 30  # bytes
LARGEST_TEMPLATE = 1 << 20  # characters
_SECONDS_OF_ALL = 30  # of which ever more conversations take ever more
_SECONDS_OF_EACH = 0.05


class ChatTemplate:
    """A tokenizer's template, as ``apply_chat_template`` renders it.

    Raises ``CalibrationError`` when there is none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        from hubquant.calibration.rendering import render

        self._request = _request(tokenizer)
        self._worker = Worker(render, seconds=SECONDS, memory=MEMORY)
        self._n_rendered = 0

    def __call__(self, conversation: Sequence[Mapping[str, str]]) -> str:
        """The text of a conversation. Raises ``CalibrationError`` when the template refuses it or reaches a limit."""
        messages = [dict(message) for message in conversation]
        try:
            text = str(self._worker(**self._request, conversation=messages))
            self._n_rendered += 1
            if self._worker.seconds_used > _SECONDS_OF_ALL + _SECONDS_OF_EACH * self._n_rendered:
                raise LimitError(f"it took {self._worker.seconds_used:.0f} seconds for {self._n_rendered} of them")
        except LimitError as error:
            raise CalibrationError(
                "the model's chat template cannot be used",
                why=f"{error}, and a real one does nothing of the kind",
                hint="use plain text for this model",
            ) from None
        except WorkError as error:
            raise CalibrationError(
                "a conversation does not fit the model's chat template",
                why=str(error),
                hint="many templates want user and assistant to alternate, and no system message",
            ) from None
        return text


def prompt_format(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What the model gets to read before its answer, with names in braces in the places of texts.

    None where the model has no template, or none that renders a single question within the limits.
    """
    from hubquant.calibration.rendering import render_prompt

    try:
        request = _request(tokenizer)
        return str(Worker(render_prompt, seconds=SECONDS, memory=MEMORY)(**request))
    except (CalibrationError, WorkError):
        return None


def _request(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Template and special tokens. Raises ``CalibrationError`` where there is no template that can be used."""
    try:
        template = tokenizer.get_chat_template() if tokenizer.chat_template else None
    except ValueError as error:
        raise CalibrationError("the model's chat template cannot be used", why=str(error)) from None
    if not isinstance(template, str):
        raise CalibrationError(
            "conversations cannot be rendered",
            why="the model's tokenizer has no chat template",
            hint="use plain text for this model, or the instruction-tuned model's folder",
        )
    if len(template) > LARGEST_TEMPLATE:
        raise CalibrationError(f"the model's chat template has {len(template):,} characters", why="no real one has")
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return {"template": template, "special": special}

"""Webhooks of the Hub, taken by huggingface_hub's ``WebhooksServer``, which runs in gradio."""

# No ``from __future__ import annotations``: FastAPI would look the names up in the module of ``WebhooksServer``,
# which wraps the function.

import io
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from huggingface_hub import WebhookPayload, WebhooksServer

from hubquant.errors import UserError

PATH = "/webhooks/watch"
SECRET = "WEBHOOK_SECRET"  # as huggingface_hub names it
PORT = 7860  # gradio's
PART = 1.0  # seconds


class Webhooks:
    """What has come for ``account``. Many events are one reason to look, as a look sees all that has changed."""

    def __init__(self, account: str) -> None:
        self._account = account.casefold()
        self._come = threading.Event()

    def take(self, payload: WebhookPayload) -> bool:
        """Whether ``payload`` tells of a new model of the account, or of a commit to the main branch of one."""
        event, repo = payload.event, payload.repo
        refs = {each.ref for each in payload.updatedRefs or ()}
        created = (event.action, event.scope) == ("create", "repo")
        committed = (event.action, event.scope) == ("update", "repo.content") and (
            not refs or "refs/heads/main" in refs
        )
        wanted = (
            repo.type == "model" and repo.name.partition("/")[0].casefold() == self._account and (created or committed)
        )
        if wanted:
            self._come.set()
        return wanted

    def wait(self, seconds: float) -> bool:
        """Whether an event has come since the last call, or comes within ``seconds``."""
        end = time.monotonic() + seconds
        # In parts: a signal that another thread takes does not end a wait, and on Windows none does.
        while not (come := self._come.wait(max(0.0, min(end - time.monotonic(), PART)))) and time.monotonic() < end:
            pass
        self._come.clear()
        return come


@contextmanager
def served(account: str, host: str, port: int) -> Iterator[Webhooks]:
    """Take webhooks at ``http://host:port/webhooks/watch`` that bring the secret in ``$WEBHOOK_SECRET``.

    Nobody can log in to gradio's own pages. Raises ``UserError`` without a secret or gradio, or for a port that cannot
    be had.
    """
    secret = os.environ.get(SECRET)
    if not secret:
        raise UserError(
            "webhooks need a secret",
            why=f"{SECRET} is not set, and without one whoever reaches the port could start work",
            hint=f"export {SECRET}=…, and give the webhook the same secret at https://huggingface.co/settings/webhooks",
        )
    try:
        import gradio
    except ImportError:
        raise UserError(
            "webhooks need gradio",
            why="huggingface_hub's WebhooksServer runs in it",
            hint="pip install 'hubquant[ui]', then the same line again",
        ) from None
    webhooks = Webhooks(account)

    async def watch(payload: WebhookPayload) -> dict[str, bool]:
        return {"taken": webhooks.take(payload)}

    with gradio.Blocks(analytics_enabled=False) as page:
        pass
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # that the class is experimental
            server = WebhooksServer(ui=page, webhook_secret=secret)
            server.add_webhook(PATH.removeprefix("/webhooks"))(watch)
            server.launch(
                prevent_thread_lock=True,
                server_name=host,
                server_port=port,
                share=False,
                auth=lambda *_: False,
                quiet=True,
                ssr_mode=False,
                run_history=False,
            )
    except OSError:
        raise UserError(
            f"webhooks cannot be taken at {host}:{port}",
            why="the port is in use, or the address is none of this machine",
            hint="name another --port or --host",
        ) from None
    try:
        yield webhooks
    finally:
        page.close(verbose=False)

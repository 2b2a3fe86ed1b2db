"""The app as a server: pages, endpoints and downloads behind one guard."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.engine.machine import memory_bytes
from hubquant.errors import UserError
from hubquant.ui.guard import LOOPBACK, Guard

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from hubquant.jobs.dispatch import Dispatcher
    from hubquant.ui.desk import Desk

LEAVING = 2  # seconds that open connections have to end in
_COMPUTER = 16 * 10**9  # bytes of memory: what somebody else's computer is taken to have
_ALL = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Served:
    """``url`` is where a browser finds the app; it holds the key where one is needed."""

    url: str
    server: uvicorn.Server
    listener: socket.socket

    def run(self) -> None:
        """Until a signal ends it."""
        self.server.run(sockets=[self.listener])


def serve(host: str, port: int, state: Path | None, store: Path | None = None) -> tuple[Served, Dispatcher]:
    """Raises ``UserError`` without gradio, and for a port that cannot be had."""
    _check_gradio()
    from hubquant.jobs.dispatch import Dispatcher
    from hubquant.jobs.queue import Queue
    from hubquant.ui.desk import Desk
    from hubquant.ui.identity import ByHub, OneUser
    from hubquant.ui.uploads import Uploads

    listener = _listener(host, port)
    queue = Queue(state)
    identity = ByHub() if on_a_space() else OneUser()
    desk = Desk(queue, identity, Uploads(queue.folder / "uploads", queue.limits.upload_bytes), store)
    key = None if on_a_space() or host in LOOPBACK else secrets.token_urlsafe(16)
    app = make_app(desk, hosts=LOOPBACK if key is None and not on_a_space() else None, key=key)
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=LEAVING, proxy_headers=on_a_space()
    )
    shown = f"[{host}]" if ":" in host else "localhost" if host in _ALL else host
    url = f"http://{shown}:{listener.getsockname()[1]}/{f'?key={key}' if key else ''}"
    return Served(url, uvicorn.Server(config), listener), Dispatcher(queue, store=store)


def make_app(desk: Desk, hosts: Collection[str] | None, key: str | None = None) -> ASGIApp:
    temporary = desk.queue.folder / "incoming"
    temporary.mkdir(parents=True, exist_ok=True, mode=0o700)
    # before gradio is imported: it asks nobody elsewhere, and keeps what is uploaded where only this user may look
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(temporary)
    import gradio as gr
    from fastapi import FastAPI

    from hubquant.ui.page import build
    from hubquant.ui.routes import add_routes

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if on_a_space():
        from gradio.oauth import attach_oauth

        attach_oauth(app)
    add_routes(app, desk)
    page = build(desk, memory=_COMPUTER if on_a_space() else memory_bytes())
    page.space_id = None  # or else gradio's page loads the fonts of a banner from elsewhere
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mounted = gr.mount_gradio_app(
            app,
            page,
            path="/",
            footer_links=["api"],
            run_history=False,
            allowed_paths=[],
            show_error=True,
            max_file_size=desk.queue.limits.upload_bytes,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=True,
            theme=_theme(gr),
            css_paths=[Path(__file__).with_name("style.css")],
            favicon_path=None,
        )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return Guard(mounted, hosts, key)


def on_a_space() -> bool:
    return os.environ.get("SYSTEM") == "spaces"


def _theme(gr: Any) -> Any:
    """With fonts that come with gradio, in the weights that it has whole."""
    from gradio.themes.utils.fonts import LocalFont

    sans, mono = LocalFont("IBM Plex Sans", weights=(400, 700)), LocalFont("IBM Plex Mono", weights=(400, 700))
    return gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="lg",
        text_size="md",
        font=[sans, "ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=[mono, "ui-monospace", "monospace"],
    ).set(
        button_primary_background_fill="#1d4ed8",
        button_primary_background_fill_dark="#1d4ed8",
        button_primary_background_fill_hover="#1e40af",
        button_primary_background_fill_hover_dark="#2563eb",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_text_color="#ffffff",
        button_cancel_text_color_dark="#ffffff",
        block_label_text_color="#334155",
        block_label_text_color_dark="#cbd5e1",
        block_title_text_color="#1e293b",
        block_title_text_color_dark="#e2e8f0",
        block_info_text_color="#475569",
        block_info_text_color_dark="#b6c2d1",
        body_text_color_subdued="#475569",
        body_text_color_subdued_dark="#b6c2d1",
    )


def _check_gradio() -> None:
    from importlib.util import find_spec

    if missing := [name for name in ("gradio", "markdown_it", "mcp", "nh3") if find_spec(name) is None]:
        raise UserError(
            "the app needs gradio", why=f"{', '.join(missing)} is not installed", hint="pip install 'hubquant[ui]'"
        )


def _listener(host: str, port: int) -> socket.socket:
    """Raises ``UserError``."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if os.name != "nt":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(
            f"the app cannot be reached at {host}:{port}",
            why=error.strerror or "the port is in use, or the address is none of this machine",
            hint="name another --port or --host",
        ) from None
    return listener

"""Downloads, for their owner alone. gradio's own way to files goes by their path; nothing is allowed there."""

# No ``from __future__ import annotations``: FastAPI would look the names up in this module's globals.

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response

from hubquant.errors import HubquantError
from hubquant.ui.desk import Desk

_PICTURES = {".png": "image/png", ".webp": "image/webp"}


def add_routes(app: FastAPI, desk: Desk) -> None:
    @app.api_route("/jobs/{job}/files/{name:path}", methods=["GET", "HEAD"], include_in_schema=False)
    def file(job: str, name: str, request: Request) -> Response:
        try:
            path = desk.file(desk.visitor(request), job, name)
        except HubquantError as error:
            return PlainTextResponse(f"{error}\n", 404, headers={"Cache-Control": "no-store"})
        kind = _PICTURES.get(path.suffix)
        return FileResponse(
            path,
            media_type=kind or "application/octet-stream",
            filename=path.name,
            content_disposition_type="inline" if kind else "attachment",
            headers={"Cache-Control": "private, no-cache"},
        )

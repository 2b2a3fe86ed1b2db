"""Models for the local Hub."""

from __future__ import annotations

from pathlib import Path

from hubquant.models.tiny import build
from tests.support.localhub import LocalHub


def add_models(hub: LocalHub, folder: Path, n: int) -> LocalHub:
    """Tiny Llamas under a free licence, each with weights of its own: org/m0, org/m1, …"""
    for number in range(n):
        model = build("llama", folder / f"m{number}", seed=number)
        (model / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
        hub.add(f"org/m{number}", model)
    return hub

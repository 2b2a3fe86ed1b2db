"""The app under load: how long a look at a model takes while jobs are queued and visitors have it open.

    python -m benchmarks.ui_load [--jobs 20] [--sessions 100] [--looks 50]

One process of ``hubquant ui`` with a worker. ``--sessions`` pages are open and idle (each holds the stream of events
of a browser), ``--jobs`` jobs of the demo model are queued, and a visitor looks at the demo model and checks a recipe
again and again; its metadata has been read before. Medians and 95th percentiles, alone and under the load, in one run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx2
from gradio_client import Client

from tests.support.browser import App

RECIPE = "model: {bundled: demo}\nquantize: {types: [Q8_0, Q4_K_M]}\n"


def timed(act: Callable[[], object], n: int) -> list[float]:
    """Milliseconds of each of ``n`` calls."""
    found = []
    for _ in range(n):
        begin = time.perf_counter()
        act()
        found.append((time.perf_counter() - begin) * 1000)
    return found


def said(times: list[float]) -> str:
    return f"median {statistics.median(times):.0f} ms, 95 % {statistics.quantiles(times, n=20)[-1]:.0f} ms"


def idle_session(url: str, ended: threading.Event) -> None:
    """A page that is open: its own, and the stream by which it would hear that the app goes."""
    with httpx2.Client(timeout=None) as client:
        client.get(url)
        client.get(f"{url}config")
        with client.stream("GET", f"{url}gradio_api/heartbeat/{uuid4().hex[:11]}") as answer:
            for _ in answer.iter_raw():
                if ended.is_set():
                    return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--looks", type=int, default=50)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        app = App(Path(folder) / "state").start()
        client, ended = Client(app.url, verbose=False), threading.Event()
        looks: dict[str, Callable[[], object]] = {
            "look at a model": lambda: client.predict("demo", api_name="/survey_model"),
            "check a recipe": lambda: client.predict(RECIPE, api_name="/check_recipe"),
        }
        try:
            for look in looks.values():
                look()
            alone = {name: timed(look, given.looks) for name, look in looks.items()}
            jobs = [client.predict(RECIPE, api_name="/start_job")["job"] for _ in range(given.jobs)]
            for _ in range(given.sessions):
                threading.Thread(target=idle_session, args=(app.url, ended), daemon=True).start()
            time.sleep(5)
            loaded = {name: timed(look, given.looks) for name, look in looks.items()}
            for name in looks:
                print(f"{name}: alone {said(alone[name])}; under load {said(loaded[name])}")
            for job in jobs:
                client.predict(job, api_name="/cancel_job")
        finally:
            ended.set()
            app.stop()


if __name__ == "__main__":
    main()

"""Measurements in the form that the Hub reads: ``.eval_results/*.yaml``.

Format: https://huggingface.co/docs/hub/eval-results. An entry needs a dataset that is a benchmark, and a task of its
eval.yaml; measurements on other texts stand on the card only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, HfApi, eval_result_entries_to_yaml, hf_hub_download, is_offline_mode
from huggingface_hub.hf_api import RepoFile

from hubquant.errors import HubquantError
from hubquant.hub.failures import hub_errors
from hubquant.hub.retry import PATIENT, Retry
from hubquant.plain_yaml import load_yaml

FOLDER = ".eval_results"
BENCHMARK = "eval.yaml"
LARGEST = 1 << 20  # bytes
MOST_TOKENS = 20_000


def benchmark_tasks(dataset_id: str, revision: str | None = None, *, retry: Retry = PATIENT) -> frozenset[str]:
    """The tasks that a dataset of the Hub defines results for; none where it is no benchmark or cannot be asked."""
    if is_offline_mode():
        return frozenset()
    try:
        with hub_errors(dataset_id, revision=revision, file=BENCHMARK):
            found = retry.call(
                lambda: HfApi().get_paths_info(dataset_id, [BENCHMARK], revision=revision, repo_type="dataset")
            )
            if not any(isinstance(file, RepoFile) and file.size <= LARGEST for file in found):
                return frozenset()
            path = Path(
                retry.call(lambda: hf_hub_download(dataset_id, BENCHMARK, revision=revision, repo_type="dataset"))
            )
        data = load_yaml(path.read_text("utf-8", "replace"), most_tokens=MOST_TOKENS)
    except (HubquantError, yaml.YAMLError):
        return frozenset()
    tasks = data.get("tasks") if isinstance(data, dict) else None
    ids = [task.get("id") for task in (tasks if isinstance(tasks, list) else ()) if isinstance(task, dict)]
    return frozenset(id for id in ids if isinstance(id, str))


def eval_results(
    dataset_id: str | None,
    measurements: Mapping[str, Mapping[str, float]],
    *,
    dataset_revision: str | None = None,
    notes: str = "",
) -> dict[str, str]:
    """Contents of the files by path, one for each type; none without a Hub dataset.

    ``measurements``: type -> metric ("perplexity", "kld_mean", …) -> value. ``notes`` say how it was measured.
    """
    if dataset_id is None:
        return {}
    files = {}
    for type, metrics in measurements.items():
        entries = [
            EvalResultEntry(
                dataset_id=dataset_id,
                task_id=metric,
                value=value,
                dataset_revision=dataset_revision,
                notes=", ".join(part for part in (type, notes) if part),
            )
            for metric, value in metrics.items()
        ]
        path = f"{FOLDER}/{dataset_id.replace('/', '_')}_{type}.yaml"
        files[path] = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    return files

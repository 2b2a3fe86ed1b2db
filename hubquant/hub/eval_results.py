"""Measurements in the form that the Hub reads: ``.eval_results/*.yaml``.

Format: https://huggingface.co/docs/hub/eval-results. An entry needs a dataset on the Hub; measurements on other texts
stand on the card only.
"""

from __future__ import annotations

from collections.abc import Mapping

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

FOLDER = ".eval_results"


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

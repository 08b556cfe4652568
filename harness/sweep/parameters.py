"""The parameters of a run or baselines job by dotted key, as tables show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.config.baselines import Job
from harness.config.parts import coupling_label
from harness.config.run import Run


def parameters(job: Job) -> tuple[dict[str, Any], list[str]]:
    """All parameters by dotted key, with a run's coupling as one of them, and the keys of a run that are not at their defaults."""
    values = _flat(job.model_dump(mode="json"))
    if not isinstance(job, Run):
        return values, []
    special = _flat(job.model_dump(mode="json", exclude_defaults=True))
    values = {key: value for key, value in values.items() if not key.startswith("coupling.")}
    return {**values, "coupling": coupling_label(job.coupling)}, [key for key in special if key in values]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat

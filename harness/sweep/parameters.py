"""The parameters of a run or baselines job by dotted key, as tables show them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from harness.config.baselines import Job
from harness.config.parts import coupling_label
from harness.config.run import Run


def parameters(job: Job) -> tuple[dict[str, Any], list[str]]:
    """All parameters by dotted key, a run's coupling as one; and the keys that are not at their defaults."""
    values: dict[str, Any] = {}
    special: list[str] = []
    _collect(job, "", values, special)
    if not isinstance(job, Run):
        return values, []
    values = {key: value for key, value in values.items() if not key.startswith("coupling.")}
    return {**values, "coupling": coupling_label(job.coupling)}, [key for key in special if key in values]


def _collect(part: BaseModel, prefix: str, values: dict[str, Any], special: list[str]) -> None:
    for name, field in type(part).model_fields.items():
        value, key = getattr(part, name), prefix + name
        if isinstance(value, BaseModel):
            _collect(value, f"{key}.", values, special)
            continue
        values[key] = list(value) if isinstance(value, tuple) else value
        if field.is_required() or value != field.default:
            special.append(key)

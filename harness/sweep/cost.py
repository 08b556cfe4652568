"""The cost of runs: device-hours from the measured rates of runs like them. Nothing is guessed; what was never timed is unknown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.store.runs import State
from harness.sweep.index import Summary

_EXACT = ("coupling", "objective.kind", "train.batch", "train.precision", "train.channels_last", "train.compile", "train.threads")
_BASELINES = ("kind", "data", "samples", "resamplings")
"""What the time of a baselines job depends on."""
_COUPLED = ("coupling", "network.dropout")
"""What differs between the couplings of one comparison; the time of a step depends on it a little."""


@dataclass(frozen=True)
class Rates:
    """Steps per second and device, on one kind of device."""

    device: str
    exact: Mapping[str, float]
    rough: Mapping[str, float]
    """Regardless of the coupling."""

    def of(self, parameters: Mapping[str, Any]) -> tuple[float | None, bool]:
        """The rate of a run, None if it is not known; and whether it was measured with another coupling."""
        exact, rough = _keys(parameters)
        if exact in self.exact:
            return self.exact[exact], False
        return self.rough.get(rough), True


_Measured = dict[str, tuple[bool, float]]
"""By key: whether the run was unfinished, and its rate."""


def rates(stored: Iterable[Summary], wanted: Iterable[Mapping[str, Any]], here: str) -> Rates:
    """The rates of finished and running runs on this kind of device. Where none of the wanted rates is known on it, as on the login node of
    a cluster, those on the kind of device on which most are known.

    Finished runs count before others, and of several the slowest, since other users may share the device again.
    """
    tables: dict[str, tuple[_Measured, _Measured]] = {here: ({}, {})}
    for summary in stored:
        if not summary.rate or not summary.device or not summary.parameters:
            continue
        entry = (summary.state is not State.DONE, summary.rate / max(1, summary.processes))
        for measured, key in zip(tables.setdefault(summary.device, ({}, {})), _keys(summary.parameters), strict=True):
            measured[key] = min(measured.get(key, entry), entry)
    every = [Rates(device, *({key: rate for key, (_, rate) in side.items()} for side in pair)) for device, pair in tables.items()]
    wanted = list(wanted)
    known = {table.device: sum(table.of(parameters)[0] is not None for parameters in wanted) for table in every}
    return every[0] if known[here] else max(every, key=lambda table: known[table.device])


def cost(hours: float | None, rough: bool = False) -> str:
    """Device-hours in a cell, with ~ before those that were timed with another coupling."""
    if hours is None:
        return "unknown"
    return "0" if hours == 0 else ("~" if rough else "") + (f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}")


def _keys(values: Mapping[str, Any]) -> tuple[str, str]:
    """What the time of a step depends on, and the same without the coupling."""
    chosen = {key: value for key, value in values.items() if key in (*_EXACT, *_BASELINES) or key.startswith(("network.", "data."))}
    less = {key: value for key, value in chosen.items() if key not in _COUPLED}
    return json.dumps(chosen, sort_keys=True), json.dumps(less, sort_keys=True)

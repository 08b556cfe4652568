"""The cost of runs: device-hours from the measured rates of runs like them. Nothing is guessed; what was never timed is unknown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.store.runs import State
from harness.sweep.summary import Summary

_RUN = ("coupling", "objective.kind", "train.batch", "train.precision", "train.channels_last", "train.compile", "train.threads")
"""What the time of a run's step depends on, besides its network and data."""
_BASELINES = ("kind", "data", "samples", "resamplings")
"""What the time of a baselines job depends on."""
_COUPLED = ("coupling", "network.dropout")
"""What differs between the couplings of one comparison; the time of a step depends on it a little."""


@dataclass(frozen=True)
class Rates:
    """Steps per second and device, on one kind of device."""

    device: str
    exact: dict[str, float] = field(default_factory=dict)
    rough: dict[str, float] = field(default_factory=dict)
    """Regardless of the coupling."""

    def of(self, parameters: Mapping[str, Any]) -> tuple[float | None, bool]:
        """The rate of a run, None if it is not known; and whether it was measured with another coupling."""
        exact, rough = _keys(parameters)
        if exact in self.exact:
            return self.exact[exact], False
        return self.rough.get(rough), True


def rates(stored: Iterable[Summary], wanted: Iterable[Mapping[str, Any]], here: str) -> Rates:
    """The rates on this kind of device. If none of the wanted rates is known on it, as on the login node of a cluster, the rates on the
    kind of device on which most of them are known.

    Runs of a rehearsal never count. Finished runs count before others, and of several the slowest, since other users may share the device
    again.
    """
    tables = {here: Rates(here)}
    real = [summary for summary in stored if not summary.parameters.get("rehearsal")]
    timed = [(summary, summary.rate / max(1, summary.processes)) for summary in real if summary.rate]
    for summary, rate in sorted(timed, key=lambda pair: (pair[0].state is not State.DONE, pair[1])):
        if summary.device and summary.parameters:
            table = tables.setdefault(summary.device, Rates(summary.device))
            exact, rough = _keys(summary.parameters)
            table.exact.setdefault(exact, rate)
            table.rough.setdefault(rough, rate)
    wanted = list(wanted)
    known = {device: sum(table.of(parameters)[0] is not None for parameters in wanted) for device, table in tables.items()}
    return tables[here] if known[here] else tables[max(known, key=lambda device: known[device])]


def cost(hours: float | None, rough: bool = False) -> str:
    """Device-hours in a cell, with ~ before those that were timed with another coupling."""
    if hours is None:
        return "unknown"
    return "0" if hours == 0 else ("~" if rough else "") + (f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}")


def _keys(values: Mapping[str, Any]) -> tuple[str, str]:
    """What the time of a step depends on, and the same without the coupling."""
    exact = {key: value for key, value in values.items() if key in (*_RUN, *_BASELINES) or key.startswith(("network.", "data."))}
    rough = {key: value for key, value in exact.items() if key not in _COUPLED}
    return json.dumps(exact, sort_keys=True), json.dumps(rough, sort_keys=True)

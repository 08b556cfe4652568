"""What runs cost: device-hours from the rates at which runs like them were timed. Nothing is guessed; what was never timed is unknown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.store.runs import State
from harness.sweep.index import Summary

_EXACT = ("coupling", "objective.kind", "train.batch", "train.precision", "train.channels_last", "train.compile", "train.threads")
_COUPLED = ("coupling", "network.dropout")
"""What differs between the couplings of one comparison; a step's time depends on it a little."""


@dataclass(frozen=True)
class Rates:
    """Steps a second and device on one kind of device."""

    device: str
    exact: Mapping[str, float]
    rough: Mapping[str, float]
    """By all but the coupling."""

    def of(self, parameters: Mapping[str, Any]) -> tuple[float | None, bool]:
        """The rate of a run, None if it is not known; and whether it was met with another coupling."""
        exact, rough = _keys(parameters)
        if exact in self.exact:
            return self.exact[exact], False
        return self.rough.get(rough), True


def rates(found: Iterable[Summary], wanted: Iterable[Mapping[str, Any]], here: str) -> Rates:
    """The rates that finished or running runs met on this kind of device; where none of the wanted is known on it, as on a cluster's
    login node, on the kind of device on which most are.

    Done runs come before others; the slowest counts, for a neighbour may take the device tomorrow too.
    """
    tables: dict[str, tuple[dict, dict]] = {here: ({}, {})}
    for summary in found:
        if not summary.rate or not summary.device or not summary.parameters:
            continue
        entry = (summary.state is not State.DONE, summary.rate / max(1, summary.processes))
        for table, key in zip(tables.setdefault(summary.device, ({}, {})), _keys(summary.parameters), strict=True):
            table[key] = min(table.get(key, entry), entry)
    every = [Rates(device, *({key: rate for key, (_, rate) in table.items()} for table in pair)) for device, pair in tables.items()]
    wanted = list(wanted)
    known = {one.device: sum(one.of(parameters)[0] is not None for parameters in wanted) for one in every}
    return every[0] if known[here] else max(every, key=lambda one: known[one.device])


def cost(hours: float | None, rough: bool = False) -> str:
    """Device-hours in a cell; a wave before those that were timed with another coupling."""
    if hours is None:
        return "unknown"
    return "0" if hours == 0 else ("~" if rough else "") + (f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}")


def _keys(values: Mapping[str, Any]) -> tuple[str, str]:
    """What the time of a step depends on, and the same without the coupling."""
    chosen = {key: value for key, value in values.items() if key in _EXACT or key.startswith(("network.", "data."))}
    less = {key: value for key, value in chosen.items() if key not in _COUPLED}
    return json.dumps(chosen, sort_keys=True), json.dumps(less, sort_keys=True)

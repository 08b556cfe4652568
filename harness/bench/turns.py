"""Timing by turns: calls alternate in one process, so that other load on the machine slows all of them alike.

What counts is the ratio of two calls of the same round; a time alone depends on what else the machine does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from harness.theory.rate import seconds_of

LEAST, MOST = 6, 41
"""Numbers of rounds. Six are the fewest whose extremes cover the median with 95 %."""
PATIENCE = 3.0
"""Multiple of the requested seconds after which fewer than LEAST rounds are enough, for a large network on a slow machine."""
SHORTEST = 0.025
"""Seconds of one timed call; shorter calls are repeated, because a single one is too short for the clock."""

Timed = Callable[[], float]
"""A call that returns what was measured in it: usually its seconds, or the seconds of one of the steps that it made."""


def take_turns(
    calls: Mapping[str, Timed], seconds: float, clock: Callable[[], float] = time.perf_counter, warm: bool = False
) -> dict[str, list[float]]:
    """What each call returned, one value per round. Unless they are warm, a call of each comes first that does not count.

    Every second round has the reverse order, so that a machine that slows down steadily favours no call. seconds: how long the rounds may
    take; at least LEAST rounds are made, or one where these take more than PATIENCE times as long.
    """
    values: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values() if not warm else ():
        call()
    started = clock()
    for number in range(MOST):
        spent = clock() - started
        if (number >= LEAST and spent >= seconds) or (number and spent >= PATIENCE * seconds):
            break
        for name in list(calls) if number % 2 == 0 else reversed(list(calls)):
            values[name].append(calls[name]())
    return values


def timed(call: Callable[[], object], device: torch.device, shortest: float = SHORTEST) -> Timed:
    """Measures the seconds of a call, until the GPU is idle; short calls are repeated, and the result is that of one.

    Calls it once or twice before that: the first call may have to set something up.
    """
    count, seconds = 1, seconds_of(call, device)
    if seconds < 10 * shortest:
        count = max(1, round(shortest / max(seconds_of(call, device), 1e-6)))
    return lambda: seconds_of(lambda: [call() for _ in range(count)], device) / count

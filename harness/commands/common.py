"""What several commands share: the selection and the runs of a command line, and the refusal of options."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
from collections.abc import Sequence

from harness.config import presets
from harness.config.experiments import MOST_CODE
from harness.config.selection import DEFAULT_SCALE, Selection
from harness.config.trust import trust
from harness.errors import HarnessError
from harness.locations import read_regular, user_path
from harness.store.runs import Store

SELECTION = ("scale", "data", "seeds", "set", "coupling")
"""Options that select the runs of an experiment and mean nothing without one."""


def selection(arguments: argparse.Namespace, experiment: str | None = None) -> Selection:
    """The runs that a command line selects. experiment: replaces the one named there. Files named by --coupling may be executed."""
    for coupling in arguments.coupling:
        with contextlib.suppress(OSError, HarnessError):  # a missing file is reported when the runs are expanded
            path = user_path(coupling.rpartition(":")[0], "--coupling")
            trust(hashlib.sha256(read_regular(path, MOST_CODE)).hexdigest())
    scale = arguments.scale or DEFAULT_SCALE
    return Selection(
        experiment or arguments.experiment,
        scale,
        arguments.seeds,
        tuple(arguments.set),
        tuple(arguments.coupling),
        arguments.results,
        () if arguments.data == presets.scale(scale).table1 else arguments.data or (),
    )


def store(arguments: argparse.Namespace) -> Store:
    """The runs below --results, or below the default results folder."""
    return Store(arguments.results)


def refuse(arguments: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    """Raises HarnessError if one of these options was given where it has no meaning. reason: what the command expects instead."""
    given = [name if name == "experiment" else f"--{name}" for name in names if getattr(arguments, name)]
    if given:
        raise HarnessError("this option does not apply here", found=", ".join(given), expected=reason)

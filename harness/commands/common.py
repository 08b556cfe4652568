"""What several commands share: the selection and results folder of a command line, and the refusal of options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.config.selection import DEFAULT_SCALE, Selection
from harness.errors import HarnessError
from harness.locations import results_root
from harness.store.runs import Store

SELECTION = ("scale", "seeds", "set", "coupling")
"""Options that select the runs of an experiment, and mean nothing without one."""


def selection(arguments: argparse.Namespace, experiment: str | None = None) -> Selection:
    """The runs that a command line selects; experiment: instead of the one named there."""
    return Selection(
        experiment or arguments.experiment,
        arguments.scale or DEFAULT_SCALE,
        arguments.seeds,
        tuple(arguments.set),
        tuple(arguments.coupling),
        arguments.results,
    )


def results(arguments: argparse.Namespace) -> Path:
    """--results, else the default results folder."""
    return Path(arguments.results or results_root())


def store(arguments: argparse.Namespace) -> Store:
    """The runs of the results folder."""
    return Store(results(arguments))


def refuse(arguments: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    """Raises HarnessError if one of these options, which have no meaning here, was given. reason: why, and what they are for."""
    given = [name for name in names if getattr(arguments, name) not in (None, [], False)]
    if given:
        words = [name if name == "experiment" else f"--{name}" for name in given]
        raise HarnessError("this option does not apply here", found=", ".join(words), expected=reason)

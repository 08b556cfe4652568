"""What several commands share: the selection, results folder and console of a command line, and the refusal of options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config.selection import DEFAULT_SCALE, Selection
from harness.errors import HarnessError
from harness.locations import results_root

if TYPE_CHECKING:
    from rich.console import Console

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
    from harness.store.runs import Store

    return Store(results(arguments))


def console() -> Console:
    """For the terminal."""
    from rich.console import Console

    return Console()


def refuse(arguments: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    """Raises HarnessError if one of these options, which have no meaning here, was given. reason: why, and what they are for."""
    given = [name for name in names if getattr(arguments, name) not in (None, [], False)]
    if given:
        words = ", ".join(name if name in ("experiment",) else f"--{name}" for name in given)
        raise HarnessError("this option does not apply here", found=words, expected=reason)

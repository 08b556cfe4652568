"""Commands that read records: report, why, publish. None imports torch."""

from __future__ import annotations

import argparse

from harness.commands.common import SELECTION, refuse, selection, store
from harness.console import Console
from harness.errors import HarnessError
from harness.sweep.table import emit


def report(arguments: argparse.Namespace) -> int:
    """`harness report`: one experiment, everything, two sides compared, or event files for TensorBoard."""
    from harness.reporting import produce

    root = store(arguments).root
    if arguments.compare:
        expected = "two scales, sets of records or results folders, and no other option but --results, --records and --output"
        refuse(arguments, ("experiment", "tensorboard", *SELECTION), expected)
        left, right = arguments.compare
        return produce.compare(root, left, right, arguments.records, arguments.output)
    if arguments.tensorboard:
        expected = "no experiment: it writes the curves of all runs, or of one --scale"
        refuse(arguments, ("experiment", "data", "seeds", "set", "coupling"), expected)
        return produce.tensorboard(root, arguments.scale, arguments.records, arguments.output)
    if arguments.experiment:
        return produce.experiment(root, selection(arguments), arguments.records, arguments.output)
    refuse(arguments, ("data", "seeds", "set", "coupling"), "an EXPERIMENT, whose runs these options select")
    return produce.everything(root, arguments.scale, arguments.records, arguments.output)


def why(arguments: argparse.Namespace) -> int:
    """`harness why`: the evidence behind one number."""
    from harness.reporting import load
    from harness.reporting.why import explain

    names: tuple[str, ...] = arguments.data or ()
    if len(names) > 1:
        found, expected = ", ".join(names), "one name"
        raise HarnessError("a number belongs to one data set", where="--data", found=found, expected=expected, nearest=names[0])
    loaded = load.read(store(arguments).root, arguments.records, arguments.scale)
    emit(Console(), "\n".join(explain(selection(arguments), arguments.model, arguments.metric, loaded, next(iter(names), None))))
    return 0


def publish(arguments: argparse.Namespace) -> int:
    """`harness publish`: the small records of finished runs, to be committed."""
    from harness.reporting.publish import publish

    root = store(arguments).root
    emit(Console(), "\n".join(publish(selection(arguments), root, arguments.to, arguments.replace, arguments.allow_uncommitted)))
    return 0

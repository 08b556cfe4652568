"""Commands that read records: report, why, publish. None imports torch."""

from __future__ import annotations

import argparse

from harness.commands.common import SELECTION, refuse, results, selection
from harness.config.selection import DEFAULT_SCALE, Selection


def report(arguments: argparse.Namespace) -> int:
    """`harness report`: one experiment, everything, two record sets side by side, or event files for TensorBoard."""
    if arguments.compare:
        refuse(arguments, ("experiment", "tensorboard", *SELECTION), "--compare A B takes two scales or results folders and nothing else")
    elif arguments.tensorboard:
        refuse(arguments, ("experiment", "seeds", "set", "coupling"), "--tensorboard writes the curves of all runs, or of one --scale")
    elif not arguments.experiment:
        refuse(arguments, ("seeds", "set", "coupling"), "an EXPERIMENT, whose runs these options select")
    from harness.reporting import produce

    root = results(arguments)
    if arguments.compare:
        return produce.compare(root, *arguments.compare)
    if arguments.tensorboard:
        return produce.tensorboard(root, arguments.scale)
    if arguments.experiment:
        return experiment_report(arguments, arguments.experiment)
    return produce.everything(root, arguments.scale)


def experiment_report(arguments: argparse.Namespace, name: str) -> int:
    """The table and verdicts of one experiment, in the terminal and in results/tables/."""
    from harness.reporting import produce

    return produce.experiment(results(arguments), selection(arguments, name))


def why(arguments: argparse.Namespace) -> int:
    """`harness why`: the evidence behind one number."""
    from harness.reporting import load
    from harness.reporting.why import explain

    loaded = load.read(results(arguments))
    chosen = Selection(arguments.experiment, arguments.scale, results=arguments.results)
    print("\n".join(explain(chosen, arguments.model, arguments.metric, loaded, arguments.data)))
    return 0


def publish(arguments: argparse.Namespace) -> int:
    """`harness publish`: the small records of finished runs, to be committed."""
    from harness.reporting.publish import publish

    chosen = Selection(arguments.experiment, arguments.scale or DEFAULT_SCALE, results=arguments.results)
    print("\n".join(publish(chosen, results(arguments), arguments.to)))
    return 0

"""Commands that read records: report, why, publish. None imports torch."""

from __future__ import annotations

import argparse

from harness.commands.common import SELECTION, refuse, selection, store


def report(arguments: argparse.Namespace) -> int:
    """`harness report`: one experiment, everything, two record sets side by side, or event files for TensorBoard."""
    from harness.reporting import produce

    root = store(arguments).root
    if arguments.compare:
        refuse(arguments, ("experiment", "tensorboard", *SELECTION), "two scales or two results folders, and no other option but --results")
        return produce.compare(root, *arguments.compare)
    if arguments.tensorboard:
        refuse(arguments, ("experiment", "seeds", "set", "coupling"), "no experiment: it writes the curves of all runs, or of one --scale")
        return produce.tensorboard(root, arguments.scale)
    if arguments.experiment:
        return produce.experiment(root, selection(arguments))
    refuse(arguments, ("seeds", "set", "coupling"), "an EXPERIMENT, whose runs these options select")
    return produce.everything(root, arguments.scale)


def why(arguments: argparse.Namespace) -> int:
    """`harness why`: the evidence behind one number."""
    from harness.reporting import load
    from harness.reporting.why import explain

    loaded = load.read(store(arguments).root)
    print("\n".join(explain(selection(arguments), arguments.model, arguments.metric, loaded, arguments.data)))
    return 0


def publish(arguments: argparse.Namespace) -> int:
    """`harness publish`: the small records of finished runs, to be committed."""
    from harness.reporting.publish import publish

    print("\n".join(publish(selection(arguments), store(arguments).root, arguments.to, arguments.replace)))
    return 0

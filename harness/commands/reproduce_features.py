"""The option --features of `harness reproduce`: feature networks are tried before the sweep, and measure its runs after it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from harness.commands import studies
from harness.commands.feature_networks import LEFT_OUT, measured_runs, named_networks
from harness.config.selection import Selection
from harness.errors import HarnessError
from harness.store.runs import Store
from harness.store.torch_loads import check_torch
from harness.sweep.site import load_site
from harness.sweep.slurm_command import belongs_into_a_job, run_in_a_job


def before_the_sweep(arguments: argparse.Namespace, selections: Sequence[Selection]) -> None:
    """Raises HarnessError, before anything is trained, for feature networks that cannot measure the runs of these selections.

    Of several selections, those without images are passed over, unless none has any. Each network is tried on two images of each shape,
    except where a job measures.
    """
    choices, data, refused = named_networks(arguments.features), dict[str, None](), list[HarnessError]()
    for chosen in selections:
        try:
            data |= dict.fromkeys(run.data.name for run in measured_runs(chosen))
        except HarnessError as error:
            refused.append(error)
    if not data:
        raise refused[0]
    if not belongs_into_a_job(arguments.executor, Store(arguments.results)):
        check_torch()
        from harness.theory.studies.sample_metrics import try_networks

        try_networks(choices, list(data))


def after_the_sweep(arguments: argparse.Namespace, chosen: Selection) -> int:
    """Measures the runs of an experiment that are done, in a job where the sweeps are jobs too. Returns the exit code.

    That runs are left out, or that an experiment has no images, is no failure of its own: the exit code of the sweep tells of the first.
    """
    store = Store(arguments.results)
    try:
        runs = measured_runs(chosen)
    except HarnessError:
        return 0
    if all(store.folder(run.id).result() is None for run in runs):
        return 0
    device = "cpu" if arguments.device == "cpu" else "auto"  # of the machine that measures, which need not have the GPU of the runs
    if belongs_into_a_job(arguments.executor, store):
        options = (word for text in dict.fromkeys(arguments.features) for word in ("--features", text))
        words = shlex.split(chosen.command("measure", "--what", "metrics", *options, "--device", device))
        code = run_in_a_job(load_site(arguments.site), f"features-{chosen.experiment}", words)
    else:
        code = studies.measure_experiment(arguments, chosen, device)
    return 0 if code == LEFT_OUT else code

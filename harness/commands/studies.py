"""`harness measure`: which study or run is meant, on which device."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands import feature_networks
from harness.commands.common import SELECTION, refuse, selection, store
from harness.commands.feature_networks import named_networks
from harness.config import experiments
from harness.config.selection import Selection
from harness.config.trust import EVERY, trust
from harness.errors import HarnessError
from harness.store.machine import idle_cores
from harness.store.runs import RunFolder
from harness.store.torch_loads import check_torch
from harness.sweep.slurm_command import note_of_login_node
from harness.theory.studies import STUDIES

if TYPE_CHECKING:
    import torch


def measure(arguments: argparse.Namespace) -> int:
    """`harness measure`: a study of its experiment's runs, all runs of an experiment by feature networks, or one finished run."""
    if note := note_of_login_node():
        print(note, file=sys.stderr, flush=True)
    check_torch()
    experiment, is_run = arguments.target.replace("-", "_"), (Path(arguments.target) / "config.json").is_file()
    if experiment in experiments.names() and not is_run and (arguments.features or experiment not in STUDIES):
        refuse(arguments, ("t",), "no noise levels: the samples of an experiment are measured")
        check_options(arguments)
        return measure_experiment(arguments, selection(arguments, experiment), arguments.device, arguments.step)
    if arguments.target in STUDIES:
        refuse(arguments, ("what", "step", "features"), "a run: a study has its own list of quantities, of finished models")
        return measure_study(arguments, arguments.target, arguments.device, arguments.t)
    refuse(arguments, SELECTION, "a study: a finished run has its own config")
    if arguments.trust:
        trust(EVERY)
    from harness.commands.measure import run_one
    from harness.reporting.printing import console
    from harness.theory.studies.common import StudyContext

    path = Path(arguments.target)
    folder = RunFolder(path.absolute()) if (path / "config.json").is_file() else store(arguments).find(arguments.target)
    context = StudyContext(folder.config()["scale"], store(arguments), (), _device(arguments.device), arguments.t)
    what = ("discrepancy", "transport") if arguments.what is None else arguments.what
    if arguments.features and "metrics" not in what:
        raise HarnessError("only metrics are measured by feature networks", where="--features", expected="--what metrics")
    context = replace(context, features=named_networks(arguments.features))
    return run_one(folder.path, what, context, console(), arguments.output, arguments.step)


def check_options(arguments: argparse.Namespace) -> None:
    """Raises HarnessError if the options of an experiment are others than --what metrics and --features."""
    if arguments.what == ["metrics"] and arguments.features:
        return
    what = "the runs of an experiment are measured by feature networks"
    given = ["--what " + ",".join(arguments.what)] if arguments.what else []
    found = ", ".join([*given, *(f"--features {text}" for text in arguments.features)]) or "neither --what nor --features"
    again = f"harness measure {arguments.target} --what metrics --features my.py:MyFeatures"
    raise HarnessError(what, where=arguments.target, found=found, expected="--what metrics --features NAME|FILE.py:CLASS", nearest=again)


def measure_study(arguments: argparse.Namespace, name: str, device: str, levels: tuple[float, ...] | None = None) -> int:
    """One study on the runs that the command line selects; levels: noise levels, by default the study's own."""
    from harness.commands.measure import run_study
    from harness.reporting.printing import console
    from harness.theory.studies.common import StudyContext

    chosen = selection(arguments, name)
    context = StudyContext(chosen.scale, store(arguments), chosen.runs(), _device(device), levels, chosen)
    return run_study(name, context, console(), arguments.output)


def measure_experiment(arguments: argparse.Namespace, chosen: Selection, device: str, step: int | None = None) -> int:
    """The samples of an experiment's runs by the feature networks of the command line; see `feature_networks.measure_experiment`."""
    choices = named_networks(arguments.features)
    check_torch()
    from harness.reporting.printing import console
    from harness.theory.studies.common import StudyContext

    context = StudyContext(chosen.scale, store(arguments), device=_device(device), selection=chosen, features=choices)
    return feature_networks.measure_experiment(chosen, context, console(), arguments.output, step)


def _device(wish: str) -> torch.device:
    """The device to measure on. Torch uses only idle cores: on a busy machine, threads that wait for each other take many times longer."""
    import torch

    from harness.training.devices import torch_device

    torch.set_num_threads(min(torch.get_num_threads(), idle_cores()))
    return torch_device(wish)

"""`harness measure`: which study or run is meant, on which device."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.common import SELECTION, refuse, selection, store
from harness.config.own_classes import named
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
    """`harness measure`: a study of its experiment's runs, or one finished run."""
    if note := note_of_login_node():
        print(note, file=sys.stderr, flush=True)
    check_torch()
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
    from harness.metrics.own_features import KNOWN

    context = replace(context, features=tuple(named(text, KNOWN, "--features") for text in dict.fromkeys(arguments.features)))
    return run_one(folder.path, what, context, console(), arguments.output, arguments.step)


def measure_study(arguments: argparse.Namespace, name: str, device: str, levels: tuple[float, ...] | None = None) -> int:
    """One study on the runs that the command line selects; levels: noise levels, by default the study's own."""
    from harness.commands.measure import run_study
    from harness.reporting.printing import console
    from harness.theory.studies.common import StudyContext

    chosen = selection(arguments, name)
    context = StudyContext(chosen.scale, store(arguments), chosen.runs(), _device(device), levels, chosen)
    return run_study(name, context, console(), arguments.output)


def _device(wish: str) -> torch.device:
    """The device to measure on. Torch uses only idle cores: on a busy machine, threads that wait for each other take many times longer."""
    import torch

    from harness.training.devices import torch_device

    torch.set_num_threads(min(torch.get_num_threads(), idle_cores()))
    return torch_device(wish)

"""`harness export`: samples of a finished run as files, and its weights with a model card."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from harness.commands.common import store
from harness.console import Console
from harness.errors import HarnessError
from harness.store.torch_loads import check_torch
from harness.sweep.slurm_command import note_of_login_node
from harness.sweep.table import emit

if TYPE_CHECKING:
    from harness.sharing.model import Labels, TrainedModel

OF_SAMPLES = ("to", "steps", "times", "balanced", "seed")
"""Options that mean nothing without --samples."""


def export(arguments: argparse.Namespace) -> int:
    """Checks everything that can be checked, then computes and writes."""
    if arguments.samples is None and arguments.weights is None:
        expected = "--samples N --to DIR|FILE.npz, or --weights FILE.safetensors"
        raise HarnessError("nothing to export", where="harness export", found="neither --samples nor --weights", expected=expected)
    if arguments.samples is None and (given := [f"--{name}" for name in OF_SAMPLES if getattr(arguments, name)]):
        raise HarnessError("this option does not apply here", found=", ".join(given), expected="--samples N, whose samples it describes")
    if arguments.samples is not None and arguments.to is None:
        raise HarnessError("no target for the samples", where="--to", found="nothing", expected="DIR or FILE.npz; FILE.npy for points")
    if note := note_of_login_node():
        print(note, file=sys.stderr, flush=True)
    check_torch()
    from harness.sharing.model import load
    from harness.sharing.samples import check_samples
    from harness.training.devices import torch_device

    model = load(arguments.run, store(arguments), which=arguments.which)
    if arguments.weights:
        _check_weights(arguments.weights, model.source, arguments.overwrite)
    if arguments.samples is not None:
        check_samples(model, arguments.samples, arguments.to, "--to", arguments.overwrite)
        labels: Labels = "balanced" if arguments.balanced else None
        model.check_sampling(range(arguments.samples), arguments.steps, labels, arguments.seed or 0, arguments.times)
        _samples(arguments, model.to(torch_device(arguments.device)), labels)
    if arguments.weights:
        _weights(arguments, model)
    return 0


def _check_weights(path: Path, source: Path, overwrite: bool) -> None:
    """Raises HarnessError if the weights cannot be written there, or have no run."""
    from harness.sharing.targets import check_target
    from harness.sharing.weights import SUFFIX, card_path

    if path.suffix != SUFFIX:
        raise HarnessError("weights are written as safetensors", where="--weights", found=path.name, expected=f"FILE{SUFFIX}")
    if source.suffix == SUFFIX:
        raise HarnessError("these weights are in a file already", where="RUN", found=source, expected="a run, or a copy of the file")
    for target in (path, card_path(path)):
        check_target(target, "--weights", overwrite)


def _samples(arguments: argparse.Namespace, model: TrainedModel, labels: Labels) -> None:
    from harness.sharing.samples import write_samples

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("samples", total=arguments.samples)
        how = (arguments.samples, arguments.to, arguments.steps, labels, arguments.seed or 0, arguments.times)
        write_samples(model, *how, progress=lambda done: progress.update(task, completed=done))
    emit(Console(), f"{arguments.samples:,} samples of {model.run.id}: {arguments.to}")


def _weights(arguments: argparse.Namespace, model: TrainedModel) -> None:
    from harness.sharing.facts import exported_by
    from harness.sharing.weights import card_path, write_weights

    path = arguments.weights
    write_weights(path, model.network.state_dict(), {**model.facts, "exported": exported_by()}, model.run)
    emit(Console(), f"weights ({model.facts['weights']}) of {model.run.id}: {path}, with the model card {card_path(path)}")

"""`harness rehearse` and `harness reproduce --smoke`: an experiment for a few training steps, on stand-ins for what is not here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness.commands.common import selection
from harness.config.experiments import OtherData
from harness.console import Console
from harness.errors import HarnessError
from harness.store.torch_loads import check_torch
from harness.sweep.executors import Executor
from harness.sweep.table import emit


def rehearse(arguments: argparse.Namespace) -> int:
    """`harness rehearse EXPERIMENT`: 0 if every step worked, 1 if not."""
    check_torch()
    from harness.rehearsal.rehearse import Options, rehearse

    return rehearse(Options(selection(arguments), arguments.output, arguments.device, arguments.memory), Console())


def smoke(arguments: argparse.Namespace, experiments: Sequence[str]) -> int:
    """`harness reproduce EXPERIMENT|all --smoke`: 0 if all runs and reports ended well, else the highest exit code.

    Of several experiments, each has a folder of its own, and a fault of one does not stop the others.
    """
    _refuse_with_smoke(arguments)
    check_torch()
    from harness.rehearsal.smoke import Options, smoke_test

    executor: Executor = "inline" if arguments.executor == "inline" else "local"
    codes = [0]
    for name in experiments:
        folder = arguments.output / name if arguments.output and len(experiments) > 1 else arguments.output
        try:
            options = Options(selection(arguments, name), folder, arguments.device, executor, arguments.workers)
            codes.append(smoke_test(options, Console()))
        except HarnessError as error:
            if len(experiments) == 1:
                raise
            emit(Console(), f"{name}: left out, since {error.what}" if isinstance(error, OtherData) else f"{name}: {error}")
            codes += [] if isinstance(error, OtherData) else [error.exit_code]
        if codes[-1] >= 128:
            break
    return max(codes)


def _refuse_with_smoke(arguments: argparse.Namespace) -> None:
    """Raises HarnessError for options that mean nothing in a smoke test."""
    given = {
        "--executor slurm": arguments.executor == "slurm",
        "--site": arguments.site,
        "--no-wait": not arguments.wait,
        "--records": arguments.records,
        "--policy": arguments.policy != "default",
        "--log": arguments.log,
        "--workers": arguments.executor == "inline" and arguments.workers is not None,
    }
    if refused := [name for name, value in given.items() if value]:
        expected = "none of them with --smoke, which trains new runs on this machine, in a folder of its own, and reports on these alone"
        raise HarnessError("this option does not apply here", where="--smoke", found=", ".join(refused), expected=expected)

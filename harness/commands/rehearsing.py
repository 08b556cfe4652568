"""`harness rehearse`: every step of an experiment for a few training steps, on stand-ins for what is not here."""

from __future__ import annotations

import argparse

from harness.commands.common import selection
from harness.console import Console
from harness.store.torch_loads import check_torch


def rehearse(arguments: argparse.Namespace) -> int:
    """`harness rehearse EXPERIMENT`: 0 if every step worked, 1 if not."""
    check_torch()
    from harness.rehearsal.rehearse import Options, rehearse

    return rehearse(Options(selection(arguments), arguments.output, arguments.device, arguments.memory), Console())

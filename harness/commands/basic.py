"""Commands about the installation and the machine: version, prepare, bench."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

from harness.config.selection import DEFAULT_SCALE
from harness.errors import HarnessError
from harness.store import fingerprint
from harness.store.git import unavailable
from harness.store.provenance import code

LONGEST_BENCH = 86_400
"""Seconds."""


def version(arguments: argparse.Namespace) -> int:
    """`harness --version`: the versions of the harness, Python and torch, and the commit of a git checkout."""
    state = code()
    changes = ", with uncommitted changes" if state["dirty"] else ""
    checkout = f"commit {state['commit'][:12]}{changes}" if state["commit"] else f"no commit: {unavailable()}"
    print(f"harness {metadata.version('consistency-harness')} ({checkout}; code {fingerprint.current()})")
    print(f"Python {platform.python_version()}, torch {metadata.version('torch')}")
    return 0


def prepare(arguments: argparse.Namespace) -> int:
    """`harness prepare`: prints the folder that was written."""
    from harness.data.prepare import prepare

    official, skip = not arguments.partial, arguments.skip_damaged
    print(prepare(arguments.data, arguments.source, arguments.root, recipe=arguments.recipe, official=official, skip_damaged=skip))
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """`harness bench`: ratios of speeds."""
    if not 0 <= arguments.seconds <= LONGEST_BENCH:  # also false for nan
        where, expected = "--seconds", f"0 (the fewest steps) to {LONGEST_BENCH}"
        raise HarnessError("no time to measure", where=where, found=arguments.seconds, expected=expected)
    from harness.bench import bench
    from harness.training.devices import torch_device

    return bench(arguments.scale or DEFAULT_SCALE, torch_device(arguments.device), arguments.seconds)

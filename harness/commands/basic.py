"""Commands about the installation and the machine: version, prepare, bench."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

from rich.console import Console

from harness.store.provenance import code


def version(arguments: argparse.Namespace) -> int:
    """`harness --version`: of the harness, its commit in a git checkout, Python and torch."""
    commit, dirty = code()["commit"], code()["dirty"]
    checkout = f" (commit {commit[:12]}{', with uncommitted changes' if dirty else ''})" if commit else ""
    print(f"harness {metadata.version('consistency-harness')}{checkout}")
    print(f"Python {platform.python_version()}, torch {metadata.version('torch')}")
    return 0


def prepare(arguments: argparse.Namespace) -> int:
    """`harness prepare`: prints the folder that was written."""
    from harness.data.prepare import prepare

    print(prepare(arguments.data, arguments.source, arguments.root, recipe=arguments.recipe, official=not arguments.partial))
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """`harness bench`: ratios of speeds."""
    from harness.bench import bench
    from harness.training.devices import torch_device

    return bench(arguments.scale, torch_device(arguments.device), Console(), arguments.seconds)

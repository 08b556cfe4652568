"""Commands about the installation and the machine: version, prepare."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib import metadata

from harness.errors import printable
from harness.store import fingerprint
from harness.store.git import unavailable
from harness.store.provenance import code
from harness.sweep.slurm_command import note_of_login_node

SHOWN = 3
"""Names of damaged images that `prepare` prints."""


def version(arguments: argparse.Namespace) -> int:
    """`harness --version`: the versions of the harness, Python and torch, and the commit of a git checkout."""
    state = code()
    changes = ", with uncommitted changes" if state["dirty"] else ""
    checkout = f"commit {state['commit'][:12]}{changes}" if state["commit"] else f"no commit: {unavailable()}"
    print(f"harness {metadata.version('consistency-harness')} ({checkout}; code {fingerprint.current()})")
    print(f"Python {platform.python_version()}, torch {metadata.version('torch')}")
    return 0


def prepare(arguments: argparse.Namespace) -> int:
    """`harness prepare`: prints the folder that was written, and which damaged images were left out."""
    from harness.data.prepare import prepare, skipped_images

    if note := note_of_login_node():
        print(note, file=sys.stderr, flush=True)
    official, skip = not arguments.partial, arguments.skip_damaged
    folder = prepare(arguments.data, arguments.source, arguments.root, recipe=arguments.recipe, official=official, skip_damaged=skip)
    print(folder)
    if skip and (skipped := skipped_images(folder)):
        others = f" and {len(skipped) - SHOWN} more; the manifest lists all" if len(skipped) > SHOWN else ""
        print(printable(f"left out as damaged: {len(skipped)} ({', '.join(skipped[:SHOWN])}{others})"))
    return 0

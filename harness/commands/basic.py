"""Commands about the installation and the machine: version, prepare."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib import metadata
from pathlib import Path

from harness.commands.common import refuse
from harness.config.custom_data import FEATURES_IN_WORDS, check_name, custom_set, unknown_set
from harness.config.parts import Features
from harness.data.catalogue import REGISTRY
from harness.errors import DamagedFile, HarnessError, printable
from harness.locations import data_root
from harness.store import fingerprint
from harness.store.git import unavailable
from harness.store.provenance import code
from harness.sweep.slurm_command import note_of_login_node

CUSTOM = ("size", "labels", "heldout", "channels", "features")
"""Options that only sets of the user's own images have."""
LEAST_INCEPTION = 32
"""Pixels per side from which images are measured by Inception, if its weights are installed."""
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
    if arguments.data in REGISTRY:
        expected = f"none of them: {arguments.data} is a set of the catalogue, which has its own size, classes and held-out images"
        refuse(arguments, CUSTOM, expected)
        folder = prepare(arguments.data, arguments.source, arguments.root, recipe=arguments.recipe, official=official, skip_damaged=skip)
        print(folder)
    else:
        folder = _prepare_custom(arguments)
    if skip and (skipped := skipped_images(folder)):
        others = f" and {len(skipped) - SHOWN} more; the manifest lists all" if len(skipped) > SHOWN else ""
        print(printable(f"left out as damaged: {len(skipped)} ({', '.join(skipped[:SHOWN])}{others})"))
    return 0


def _prepare_custom(arguments: argparse.Namespace) -> Path:
    """Prepares a set of the user's own images; prints its folder, what it is, and how to train on it."""
    from harness.data.prepare import custom, prepare_custom

    name, place, size = arguments.data, data_root(arguments.root), arguments.size
    refuse(arguments, ("partial",), "a set of the catalogue, of which it accepts a part")
    check_name(name)
    before = custom_set(name, place)
    if size is None:
        if before is None:
            raise unknown_set(name, list(REGISTRY), where="NAME")
        fix = f"harness prepare {name} --from FOLDER --size {before.shape[1]}"
        raise HarnessError("images of your own need a size", where="--size", found="none", expected="pixels per side", nearest=fix)
    weights = any((place / "weights").glob("inception-*.pt"))
    usual: Features | None = before.features if before else "inception" if weights and size >= LEAST_INCEPTION else None
    folder = prepare_custom(
        name,
        arguments.source,
        arguments.root,
        size=size,
        labels=arguments.labels,
        heldout=arguments.heldout or custom.HELDOUT,
        channels=arguments.channels,
        recipe=arguments.recipe or custom.RECIPE,
        features=arguments.features or usual,
        skip_damaged=arguments.skip_damaged,
    )
    print(folder)
    if (prepared := custom_set(name, place)) is None:
        raise DamagedFile("the set that was written is gone", where=folder)
    sides = "x".join(map(str, prepared.shape))
    classes = f"{prepared.classes} classes" if prepared.classes else "no classes"
    print(f"{name}: {prepared.train:,} training and {prepared.heldout:,} held-out images of {sides}, {classes}")
    print(f"measured by {FEATURES_IN_WORDS[prepared.features]}", flush=True)
    if prepared.features == "classifier":
        from harness.metrics.set_classifier import fit

        print("training the classifier, which takes minutes for large images", flush=True)
        accuracy = fit(name, place)
        print("trained" if accuracy is None else f"trained: {accuracy:.1%} of the held-out images are classified as labelled")
    if prepared.features != "inception" and size >= LEAST_INCEPTION and not arguments.features:
        print("for Inception instead: python -m harness.metrics.inception, remove this folder, and prepare it again")
    print(f"to train on it: harness reproduce table1 --data {name}" + (" --scale fashion" if size > LEAST_INCEPTION // 2 else ""))
    return folder

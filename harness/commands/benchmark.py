"""The command bench. The names of parts and shapes are listed here too, so that the help needs no torch (tests compare the lists)."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from harness.errors import HarnessError
from harness.locations import results_root
from harness.store.torch_loads import check_torch

PARTS = ("steps", "breakdown", "rates", "samples", "frechet", "oracle", "transport", "commands", "processes", "growth", "memory")
SHAPES = "digits,fashion,cifar10"
SHAPES_HELP = "toy, digits, fashion, cifar10, each with another batch if one is given (cifar10:32); by default, CPUs take small batches"
PROFILES_HELP = "settings of training beside fp32: channels_last, bf16 channels_last, compiled, fast; default all that need no compiler"
COMPARE_HELP = "after measuring, show what changed since this file; with a second file, only compare the two"
SECONDS, QUICK_SECONDS = 4.0, 1.0
LONGEST = 86_400
"""Seconds."""


def bench(arguments: argparse.Namespace) -> int:
    """`harness bench`: measures, prints, writes and compares; returns the exit code 0."""
    seconds = arguments.seconds if arguments.seconds is not None else QUICK_SECONDS if arguments.quick else SECONDS
    if not 0 <= seconds <= LONGEST:  # also false for nan
        raise HarnessError("no time to measure", where="--seconds", found=seconds, expected=f"0 (one round) to {LONGEST}")
    if len(arguments.compare or ()) > 2:
        raise HarnessError("too many files to compare", where="--compare", found=len(arguments.compare), expected="one or two")

    check_torch()
    from harness.bench import files, run
    from harness.bench.parts import chosen_parts
    from harness.bench.profiles import PROFILES, chosen_profiles
    from harness.bench.setting import Setting
    from harness.bench.shapes import chosen_shapes
    from harness.reporting.printing import console, output_folder
    from harness.training.devices import torch_device

    out = console()
    old, new = ([files.read(path) for path in arguments.compare or ()] + [None, None])[:2]
    parts = chosen_parts(arguments.only)
    shapes = chosen_shapes(arguments.shapes or ("digits" if arguments.quick else SHAPES))
    profiles = chosen_profiles(arguments.profiles) if arguments.profiles else PROFILES
    if old and new:
        run.print_changes(old, new, out)
        return 0
    device = torch_device(arguments.device)
    path = arguments.json or output_folder(results_root(), None, out) / "bench" / time.strftime("%Y-%m-%d-%H%M%S.json", time.gmtime())
    compile_here = device.type == "cuda" or bool(arguments.profiles)
    detailed = shapes if arguments.shapes or device.type == "cuda" else tuple(dict.fromkeys((shapes[0], shapes[-1])))
    setting = Setting(device, seconds, shapes, detailed, Path(), profiles, compile_here, arguments.quick)
    results = run.measure(parts, setting, out, keep=lambda results: files.write(path, results))
    print(f"Written: {path}")
    if old:
        run.print_changes(old, results, out)
    return 0

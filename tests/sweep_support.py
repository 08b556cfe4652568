"""Shared by the tests of sweeps: small runs, the final state of a fake job, waiting for a condition."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from harness.config.parts import Data, Evaluation, GeneratorAugmented, Independent, Network, Training
from harness.config.run import Run

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--scale", "toy", "--set", "train.steps=30", "--set", "evaluation.every=15", "--set", "evaluation.samples=64"]


def toy_run(seed: int = 0, mu: float = 0.0, frozen: str | None = None, steps: int = 20, **changes) -> Run:
    """A run of the toy scale; mu = 0 is the independent coupling."""
    coupling = GeneratorAugmented(mu=mu, predictor="frozen" if frozen else "ema", frozen=frozen) if mu or frozen else Independent()
    values = {
        "scale": "toy",
        "data": Data(name="two-moons"),
        "network": Network(kind="mlp", dropout=(0.0,)),
        "coupling": coupling,
        "train": Training(steps=steps, batch=8, lr=1e-3),
        "evaluation": Evaluation(every=10, samples=16),
        "seed": seed,
    }
    return Run(**{**values, **changes})


def harness(*arguments: str) -> subprocess.CompletedProcess:
    """The command harness with these arguments, in a process of its own."""
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)


def final_hash(seed: int, steps: int) -> str:
    """The hash with which an undisturbed fake_job.py ends."""
    value = seed
    for step in range(1, steps + 1):
        value = hashlib.sha256(f"{value}/{step}".encode()).hexdigest()
    return value


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits until the condition holds; fails the test when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not hold in time"
        time.sleep(0.01)

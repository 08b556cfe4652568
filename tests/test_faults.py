"""Fifty faults in a sweep of real runs: kills, stops, damaged files. It ends as if nothing had happened, and trains nothing twice."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_job import AT_THE_END, CHECKPOINTS
from rich.console import Console
from train_support import COUPLINGS, difference, tiny_run

from harness.config.parts import EasyConsistencyTuning, Evaluation, GeneratorAugmented, Init
from harness.config.run import Run
from harness.store.runs import State, Store
from harness.sweep.launch import LaunchOptions, launch
from harness.sweep.plan import Action, make_plan
from harness.training import checkpoints

ROOT = Path(__file__).parents[1]
STEPS, SAVE_EVERY, POLL_EVERY, KEPT = 24, 5, 8, 12
SEEDS = range(7)
HOW_MANY = {
    "kill": 11, "kill while saving": 3, "kill before facts": 3, "kill after measuring": 3, "kill before result": 3,
    "term": 5, "deadline": 4, "launcher": 2,
    "cut checkpoint": 3, "flip checkpoint": 2, "cut facts": 2, "cut records": 2, "cut heartbeat": 2, "cut attempts": 2, "cut config": 1,
    "cut result": 2,
}  # fmt: skip
SOFT = {"term", "deadline", "launcher"}
"""Stops that save first."""


def small(coupling="ic", **changes) -> Run:
    evaluation = Evaluation(every=POLL_EVERY, samples=32, resamplings=2, grid=4)
    return tiny_run(coupling, steps=STEPS, checkpoint_every=SAVE_EVERY, evaluation=evaluation, **changes)


def all_runs() -> list[Run]:
    """IC, batch-OT and GC with seven seeds; a GC whose predictor is an IC at a kept step; an ECT that starts from a GC."""
    runs = [small(coupling, seed=seed, keep_steps=(KEPT,)) for seed in SEEDS for coupling in COUPLINGS]
    first = {run.coupling.kind: run for run in runs[:3]}
    frozen = GeneratorAugmented(mu=1.0, predictor="frozen", frozen=first["independent"].id, frozen_step=KEPT)
    tuned = small("ic", objective=EasyConsistencyTuning(), init=Init(kind="run", ref=first["gc"].id))
    return [small(frozen), tuned, *runs]


def chosen_faults(runs: list[Run], draw: random.Random) -> dict[str, list[tuple[str, int]]]:
    """At most three faults a run, and one of a checkpoint, since two are kept; in an order in which all can happen."""

    def step(kind: str) -> int:
        if kind in ("deadline", *AT_THE_END):
            return 0 if kind == "deadline" else STEPS
        first = 2 * SAVE_EVERY + 1 if kind in CHECKPOINTS else POLL_EVERY + 1 if kind == "cut records" else 1
        return draw.randint(first, STEPS - 4 if kind in SOFT else STEPS)  # two soft stops in a row still leave steps to stop at

    kinds = list(itertools.chain(*([kind] * many for kind, many in HOW_MANY.items())))
    places = [run.id for run in runs] * 3
    while True:
        draw.shuffle(places)
        plan: dict[str, list[tuple[str, int]]] = {}
        for kind, place in zip(kinds, places, strict=False):
            plan.setdefault(place, []).append((kind, step(kind)))
        if all(sum(kind in group for kind, _ in faults) <= 1 for faults in plan.values() for group in (CHECKPOINTS, AT_THE_END)):
            return {name: sorted(faults, key=lambda fault: (fault[0] in AT_THE_END, fault[1])) for name, faults in plan.items()}


def start_launcher(store: Store, faults: Path) -> subprocess.Popen:
    """The same command each time."""
    code = f"""
import sys
from rich.console import Console
from test_faults import all_runs
from harness.store.runs import Store
from harness.sweep.launch import LaunchOptions, launch
from harness.sweep.plan import make_plan
store = Store({str(store.root)!r})
options = LaunchOptions(executor="local", workers=2, device="cpu", entry="fault_job:main")
sys.exit(launch(make_plan(all_runs(), store), store, options, Console(width=200)).exit_code)
"""
    path = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])  # for the server that runs are forked from
    environment = {**os.environ, "FAULTS": str(faults), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment)


def rows(store: Store, run: Run) -> list[tuple]:
    """The records but for their times, in a fixed order: what was lost from the file comes back at its end."""
    records, ignored = store.folder(run.id).records(), ("seconds", "check")
    return sorted(tuple((key, repr(value)) for key, value in row.items() if key not in ignored) for row in records)


@pytest.mark.timeout(600)
def test_fifty_faults_change_nothing(tmp_path):
    runs, store, undisturbed = all_runs(), Store(tmp_path / "results"), Store(tmp_path / "undisturbed")
    quiet = launch(make_plan(runs, undisturbed), undisturbed, LaunchOptions(executor="inline", device="cpu"), Console(file=io.StringIO()))
    assert quiet.exit_code == 0

    faults, plan = tmp_path / "faults", chosen_faults(runs, random.Random(0))
    faults.mkdir()
    (faults / "plan.json").write_text(json.dumps(plan))
    began, killed, launchers = time.monotonic(), 0, [start_launcher(store, faults) for _ in range(2)]  # two at once, as by mistake
    while launchers:
        launcher = launchers.pop(0)
        output, _ = launcher.communicate(timeout=400)
        if launcher.returncode == -signal.SIGKILL:
            killed += 1
            launchers.append(start_launcher(store, faults))
        else:
            assert launcher.returncode == 0, output

    happened = [plan[name][int(number)][0] for path in faults.glob("fired-*") for name, _, number in [path.name[6:].rpartition("-")]]
    counts = {kind: happened.count(kind) for kind in HOW_MANY}
    assert counts == HOW_MANY and len(happened) == 50 and killed == HOW_MANY["launcher"]
    print(f"{len(happened) + killed} faults in {time.monotonic() - began:.0f} s: {counts}")

    assert {store.folder(run.id).state() for run in runs} == {State.DONE}
    assert {row.action for row in make_plan(runs, store).rows} == {Action.SKIP}
    for run in runs:
        ours, theirs = (checkpoints.load_newest(results.folder(run.id).path / "checkpoints", run.id) for results in (store, undisturbed))
        assert difference(ours, theirs) == [] and {"online", "ema", "optimizer"} <= ours.keys(), run.id
        assert rows(store, run) == rows(undisturbed, run) and rows(store, run), run.id
        assert store.folder(run.id).result()["fid"] == undisturbed.folder(run.id).result()["fid"]
        assert_trained_once(faults, run, plan.get(run.id, []))
    assert not list(faults.glob("two-owners-*")), "the kernel saw two owners of one folder at a time"
    assert not list(store.runs.rglob(".*.tmp")), "what a killed process leaves half-written is removed"


def assert_trained_once(faults: Path, run: Run, planned: list[tuple[str, int]]) -> None:
    """Each start resumes at the newest valid checkpoint, and no two starts train at the same time."""
    lines = [line.split() for line in (faults / f"{run.id}.steps").read_text().splitlines()]
    starts = [(pid, [int(step) for _, step in group]) for pid, group in itertools.groupby(lines, key=lambda line: line[0])]
    assert len({pid for pid, _ in starts}) == len(starts), "one process after the other"
    done, again = 0, 0
    for _, steps in starts:
        assert steps == list(range(steps[0], steps[-1] + 1))
        lost = done - (steps[0] - 1)
        assert 0 <= lost <= 2 * SAVE_EVERY, "it resumes where the last checkpoint was"
        again += lost
        done = steps[-1]
    assert done == STEPS
    lossy = [kind for kind, _ in planned if kind not in SOFT]
    assert again <= 2 * SAVE_EVERY * len(lossy), "two intervals, because a checkpoint may be in writing"

"""Experiments to runs, runs to a plan: states, policies, needs, costs, and the time it takes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sweep_support import toy_run

from harness.config.experiments import expand, load, names, topological
from harness.config.parts import Custom, GeneratorAugmented, Independent
from harness.config.selection import Selection
from harness.errors import HarnessError
from harness.store.machine import device_kind
from harness.store.runs import RunFolder, State, Store
from harness.sweep.plan import POLICIES, Action, make_plan, print_plan, summary_line
from harness.sweep.summary import parameters
from harness.sweep.table import duration, factored, render

EXPERIMENT = '''
"""Two cells and a frozen one.

More text.
"""
import sys
sys.path.insert(0, {tests!r})
from sweep_support import toy_run

REPORT = "table9"
SEEDS = 2

def runs(scale, seeds):
    chosen = []
    for seed in seeds:
        ic = toy_run(seed)
        chosen += [toy_run(seed, mu=0.5, frozen=ic.id), toy_run(seed, mu=0.5), ic, ic]
    return chosen
'''


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "cells.py").write_text(EXPERIMENT.format(tests=os.path.dirname(__file__)))  # noqa: PTH120
    (folder / "_helper.py").write_text("")
    (folder / "empty.py").write_text("x = 1")
    (folder / "broken.py").write_text("def runs(:")
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(folder))
    return folder


def folder_of(store: Store, run) -> RunFolder:
    return RunFolder.create(store.root, run.id, run.to_dict())


def done(store: Store, run, **result) -> RunFolder:
    folder = folder_of(store, run)
    folder.write_result({"fid": 1.0, **result})
    return folder


def actions(plan) -> dict:
    return {row.id: row.action for row in plan.rows}


# --- experiments ---


def test_experiments_are_files_with_runs(experiments):
    assert names() == ["broken", "cells", "empty"]
    experiment = load("cells")
    assert experiment.title == "Two cells and a frozen one." and experiment.report == "table9"
    with pytest.raises(HarnessError) as caught:
        load("cell")
    assert caught.value.details["nearest"] == "cells"
    with pytest.raises(HarnessError, match="declares no runs"):
        load("empty")
    with pytest.raises(HarnessError, match="does not parse"):
        load("broken")


def test_expand_removes_duplicates_and_puts_needs_first(experiments):
    runs = expand("cells", "toy", [3])
    assert len(runs) == 3
    ids = [run.id for run in runs]
    frozen = next(run for run in runs if run.needs)
    assert ids.index(frozen.needs[0]) < ids.index(frozen.id)
    with pytest.raises(HarnessError) as caught:
        expand("cells", "tois")
    assert caught.value.details["nearest"] == "toy"


def test_overrides_change_ids_and_needs_follow(experiments):
    runs = expand("cells", "toy", [0], ["train.lr=0.5"])
    assert all(run.train.lr == 0.5 for run in runs)
    frozen = next(run for run in runs if run.needs)
    assert frozen.needs[0] in {run.id for run in runs}, "the frozen predictor is the changed run, not the one of the file"


def test_an_override_applies_to_the_runs_that_have_its_key(experiments):
    runs = expand("cells", "toy", [0], ["coupling.mu=0.25"])
    assert {run.coupling.mu for run in runs if isinstance(run.coupling, GeneratorAugmented)} == {0.25}
    assert any(isinstance(run.coupling, Independent) for run in runs)
    with pytest.raises(HarnessError) as caught:
        expand("cells", "toy", [0], ["train.lrr=1"])
    assert caught.value.details["nearest"] == "lr"
    with pytest.raises(HarnessError, match="out of range"):
        expand("cells", "toy", [0], ["coupling.mu=2"])


def test_overrides_that_only_fit_together_are_applied_together():
    levels = ["network.channel_mult=1,1,1", "network.num_blocks=1,1,1", "network.dropout=0,0,0"]
    assert {run.network.channel_mult for run in expand("table1", "digits", [0], levels)} == {(1, 1, 1)}
    with pytest.raises(HarnessError):
        expand("table1", "digits", [0], levels[:2])


def test_a_custom_coupling_becomes_a_cell(experiments, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def swap(x, z, sigma, predict):\n    return x, z\n")
    runs = expand("cells", "toy", [0, 1], couplings=[f"{file}:swap"])
    mine = [run for run in runs if isinstance(run.coupling, Custom)]
    assert [run.seed for run in mine] == [0, 1] and len(runs) == 8 and "swap" in mine[0].id
    before = mine[0].id
    file.write_text("def swap(x, z, sigma, predict):\n    return x, -z\n")
    assert before not in {run.id for run in expand("cells", "toy", [0], couplings=[f"{file}:swap"])}, "an edited coupling is another run"
    for text, match in ((f"{file}:swop", "unknown function"), (f"{file}", "FILE.py:FUNCTION"), (f"{tmp_path}/none.py:f", "no such file")):
        with pytest.raises(HarnessError, match=match):
            expand("cells", "toy", [0], couplings=[text])


def test_a_run_that_others_start_from_gets_no_custom_cell(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(tmp_path))
    (tmp_path / "coup.py").write_text("def f(x, z, sigma, predict):\n    return x, z\n")
    (tmp_path / "tune.py").write_text(
        f"import sys\nsys.path.insert(0, {os.path.dirname(__file__)!r})\n"  # noqa: PTH120
        "from sweep_support import toy_run\nfrom harness.config.parts import Denoising, Init\n"
        "def runs(scale, seeds):\n"
        "    first = toy_run(0, objective=Denoising())\n"
        "    return [first, toy_run(0, init=Init(kind='run', ref=first.id))]\n"
    )
    runs = expand("tune", "toy", couplings=[f"{tmp_path}/coup.py:f"])
    kinds = [(run.objective.kind, run.coupling.kind) for run in runs]
    assert kinds == [("denoiser", "independent"), ("ict", "independent"), ("ict", "custom")]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25))
@settings(max_examples=100, deadline=None)
def test_topological_order_against_its_definition(edges):
    """Edges from higher to lower numbers cannot form a cycle."""
    needs = {str(i): [] for i in range(10)}
    for a, b in edges:
        if a > b:
            needs[str(a)].append(str(b))
    order = topological(needs)
    assert sorted(order) == sorted(needs)
    assert all(order.index(need) < order.index(name) for name, wanted in needs.items() for need in wanted)


def test_a_cycle_is_named():
    with pytest.raises(HarnessError) as caught:
        topological({"a": ["b"], "b": ["c"], "c": ["a"], "d": []})
    assert {"a", "b", "c"} <= set(caught.value.details["found"].split(" -> "))


# --- plans ---


def test_each_state_gets_its_action_and_reason(store):
    new, old, stopped, stalled, running, failed, missing = (toy_run(seed) for seed in range(7))
    done(store, old)
    with folder_of(store, stopped).acquire() as lease:
        lease.beat(step=7, total=20, force=True)
    lock = folder_of(store, stalled).acquire(interval=60)
    os.utime(store.folder(stalled.id).path / "lock" / "000001", (1, 1))
    owner = folder_of(store, running).acquire()
    folder_of(store, failed).write_error("diverged", "loss is nan")
    folder_of(store, missing).write_error("input", "no data")
    plan = make_plan([new, old, stopped, stalled, running, failed, missing], store)
    rows = {row.id: row for row in plan.rows}
    expected = {
        new: (State.NEW, Action.START, "not begun"),
        old: (State.DONE, Action.SKIP, "done"),
        stopped: (State.STOPPED, Action.CONTINUE, "stopped at step 7 of 20"),
        stalled: (State.STALLED, Action.CONTINUE, "its process is gone"),
        running: (State.RUNNING, Action.WAIT, "a process works on it"),
        failed: (State.FAILED, Action.REFUSE, "--policy retry-failed"),
        missing: (State.FAILED, Action.RETRY, "tried again"),
    }
    for run, (state, action, reason) in expected.items():
        assert (rows[run.id].state, rows[run.id].action) == (state, action) and reason in rows[run.id].reason
    lock.release()
    owner.release()


def test_policies(store):
    old, failed, new = toy_run(0), toy_run(1), toy_run(2)
    done(store, old)
    folder_of(store, failed).write_error("diverged", "nan")
    runs = [old, failed, new]
    expected = {
        "default": ["skip", "refuse", "start"],
        "retry-failed": ["skip", "retry", "start"],
        "retrain-other-code": ["start", "refuse", "start"],  # no start is recorded, so the code of the first is unknown
        "force": ["start", "start", "start"],
        "read-only": ["skip", "refuse", "refuse"],
    }
    assert set(expected) == set(POLICIES)
    for policy, wanted in expected.items():
        assert list(actions(make_plan(runs, store, policy)).values()) == wanted
    with pytest.raises(HarnessError) as caught:
        make_plan(runs, store, "forc")
    assert caught.value.details["nearest"] == "force"


def test_planning_writes_nothing(store):
    make_plan([toy_run(0)], store)
    assert not store.root.exists()


def test_needs_wait_or_block_with_the_reason(store):
    good, bad, outside = toy_run(0), toy_run(1), toy_run(2)
    folder_of(store, bad).write_error("diverged", "nan")
    after_good, after_bad, after_outside = (toy_run(9, mu=0.5, frozen=run.id) for run in (good, bad, outside))
    last = toy_run(10, mu=0.5, frozen=after_bad.id)
    plan = make_plan([last, after_good, after_bad, after_outside, good, bad], store)
    rows = {row.id: row for row in plan.rows}
    assert rows[after_good.id].action is Action.START and rows[after_good.id].needs == (good.id,)
    assert rows[after_bad.id].state is State.BLOCKED and "nan" in rows[after_bad.id].reason and bad.id in rows[after_bad.id].reason
    assert rows[last.id].action is Action.BLOCKED and after_bad.id in rows[last.id].reason
    assert rows[after_outside.id].action is Action.BLOCKED and "not part of this sweep" in rows[after_outside.id].reason
    assert actions(make_plan([last, after_bad, bad], store, "retry-failed"))[last.id] is Action.START
    done(store, outside)
    row = make_plan([after_outside], store).rows[0]
    assert row.action is Action.START and row.needs == ()


def test_a_stored_config_that_disagrees_is_refused_with_the_difference(store):
    run, other = toy_run(0), toy_run(0, steps=30)
    RunFolder.create(store.root, run.id, other.to_dict())
    row = make_plan([run], store).rows[0]
    assert row.action is Action.REFUSE and "train.steps: 30 -> 20" in row.reason


def checkpointed(folder: RunFolder, *steps: int) -> None:
    """Checkpoints of these steps, and a record, without which a run that has checkpoints is not done."""
    folder.append_records([{"step": steps[-1]}])
    (folder.path / "checkpoints").mkdir(exist_ok=True)
    for step in steps:
        (folder.path / "checkpoints" / f"step-{step:08d}.json").write_text("{}")


def test_a_run_that_two_experiments_need_keeps_the_steps_of_both_unless_it_is_done(store):
    first, other = toy_run(0, keep_steps=(5,)), toy_run(0, keep_steps=(12, 3))
    assert first.id == other.id
    folder = folder_of(store, first)
    assert folder_of(store, other).config()["keep_steps"] == [3, 5, 12]
    assert folder_of(store, first).config()["keep_steps"] == [3, 5, 12]
    folder.write_result({})
    assert folder_of(store, toy_run(0, keep_steps=(7,))).config()["keep_steps"] == [3, 5, 12]


def test_a_step_that_was_not_kept_is_named_and_blocks_the_run_that_needs_it(store):
    need = toy_run(0, keep_steps=(5,))
    late = toy_run(1, coupling=GeneratorAugmented(predictor="frozen", frozen=need.id, frozen_step=5))
    assert [row.action for row in make_plan([need, late], store).rows] == [Action.START] * 2
    folder = done(store, toy_run(0))
    checkpointed(folder, 10, 20)
    rows = make_plan([need, late], store).rows
    assert rows[0].action is Action.SKIP and "without step 5, which was not kept" in rows[0].reason
    assert rows[1].action is Action.BLOCKED and "needs step 5" in rows[1].reason and "kept: 10, 20" in rows[1].reason
    assert f"harness clear {need.id}" in rows[1].reason
    assert make_plan([late], store).rows[0].action is Action.BLOCKED, "also where the need is not part of the sweep"
    assert [row.action for row in make_plan([need, late], store, "force").rows] == [Action.START] * 2
    folder.delete()
    assert [row.action for row in make_plan([need, late], store).rows] == [Action.START] * 2
    checkpointed(done(store, need), 5, 10, 20)
    assert [row.action for row in make_plan([need, late], store).rows] == [Action.SKIP, Action.START]


def test_a_step_that_lies_ahead_is_kept_and_one_that_is_past_is_not(store):
    folder = folder_of(store, toy_run(0))
    with folder.acquire() as lease:
        lease.beat(step=10, total=20, force=True)
        (row,) = make_plan([toy_run(0, keep_steps=(15,))], store).rows
        assert row.action is Action.WAIT and "without step 15" in row.reason, "the process at work does not know of it"
    checkpointed(folder, 5, 10)
    (row,) = make_plan([toy_run(0, keep_steps=(7, 15))], store).rows
    assert row.action is Action.CONTINUE and "without step 7, which" in row.reason


def test_a_damaged_config_does_not_stop_the_run(store):
    run = toy_run(0)
    path = folder_of(store, run).path / "config.json"
    path.write_bytes(path.read_bytes()[:50])
    assert make_plan([run], store).rows[0].action is Action.START
    assert RunFolder.create(store.root, run.id, run.to_dict()).config() == run.to_dict()


def test_a_submission_waits_unless_the_scheduler_lost_it(store):
    run = toy_run(0)
    folder_of(store, run)
    store.mark_submitted(run.id, "t", "slurm", None)
    store.mark_submitted(run.id, "t", "slurm", "42")
    assert actions(make_plan([run], store))[run.id] is Action.WAIT
    asked = []
    plan = make_plan([run], store, alive=lambda submission: asked.append(submission["job_id"]) or False)
    assert plan.rows[0].action is Action.START and "job 42 of slurm is gone" in plan.rows[0].reason and asked == ["42"]


def test_a_damaged_submission_counts_as_none(store):
    run = toy_run(0)
    folder = folder_of(store, run)
    store.mark_submitted(run.id, "t", "slurm")
    (folder.path / "submitted.json").write_bytes(b'{"token": "t", "exec')
    assert folder.submission() is None and make_plan([run], store).rows[0].action is Action.START
    store.mark_submitted(run.id, "u", "slurm")
    store.mark_submitted(run.id, "u", "slurm", "43")
    assert folder.submission()["job_id"] == "43" and folder.state() is State.QUEUED
    with pytest.raises(HarnessError, match="job"):
        store.mark_submitted(run.id, "v", "slurm")


def test_costs_come_from_rates_of_the_same_work_on_the_same_device(store):
    here = device_kind()
    timed = toy_run(0, steps=3600)
    plan = make_plan([timed], store)
    assert plan.hours is None and "unknown" in summary_line(plan)
    done(store, timed, rate=10.0, device=here)
    same, wider = toy_run(1, steps=3600), toy_run(1, steps=3600, network=timed.network.model_copy(update={"width": 512}))
    elsewhere = toy_run(1, steps=3600, mu=0.5)
    done(store, toy_run(0, steps=3600, mu=0.5), rate=10.0, device="another device")
    plan = make_plan([timed, same], store)
    assert [row.hours for row in plan.rows] == [0.0, pytest.approx(0.1)] and plan.hours == pytest.approx(0.1)
    plan = make_plan([wider, elsewhere], store)
    assert [row.hours for row in plan.rows] == [None, pytest.approx(0.1)], "the other coupling counts, where its own was not timed here"
    assert plan.hours is None and "~0.1 for the others" in summary_line(plan) and plan.device == here
    chosen = Selection("cells", "toy", overrides=("network.width=512",), results=Path("elsewhere"))
    command = f"harness run {wider.id} --experiment cells --scale toy --set network.width=512 --results elsewhere"
    assert command in summary_line(make_plan([wider, elsewhere], store, selection=chosen)), "it can be pasted"
    with folder_of(store, same).acquire() as lease:
        lease.beat(step=1800, total=3600, force=True)
    assert make_plan([same], store).hours == pytest.approx(0.05), "half of it is done"
    done(store, toy_run(5, steps=3600), rate=40.0, device=here, processes=2)
    assert make_plan([toy_run(7, steps=3600)], store).hours == pytest.approx(0.1), "the slowest counts"


def test_where_nothing_was_timed_the_rates_of_the_cluster_count(store):
    """As on a login node: the runs were timed on another device than that of this machine."""
    done(store, toy_run(0, steps=3600), rate=20.0, device="big GPU", processes=2)
    done(store, toy_run(1, train=toy_run(0).train.model_copy(update={"batch": 99})), rate=1.0, device="small GPU")
    plan = make_plan([toy_run(2, steps=3600), toy_run(3, steps=3600, mu=0.5)], store)
    assert plan.device == "big GPU" and [row.rough for row in plan.rows] == [False, True]
    assert [row.hours for row in plan.rows] == [pytest.approx(0.1), pytest.approx(0.1)]
    assert "~0.2 device-hours (12:00 on one big GPU); ~ is the rate of the same network with another coupling" in summary_line(plan)


def test_a_grid_is_counted_by_its_sides(store):
    runs = [toy_run(seed, mu=mu) for seed in range(2) for mu in (0, 0.5, 1.0)]
    for chosen, words in ((runs, "cells: 6 runs = 3 couplings x 1 data set x 2 seeds "), (runs[:-1], "cells: 5 runs ")):
        console = Console(file=io.StringIO(), width=200)
        print_plan(make_plan(chosen, store, selection=Selection("cells")), console)
        assert console.file.getvalue().startswith(words)


def test_the_table_factors_out_what_all_share(store):
    runs = [toy_run(0), toy_run(1, steps=40)]
    console = Console(file=io.StringIO(), width=60)
    print_plan(make_plan(runs, store, selection=Selection("cells")), console)
    head, _, table = console.file.getvalue().partition("\n\n")
    assert "cells: 2 runs" in head and "scale=toy" in head and "train.batch=8" in head and "train.steps" not in head
    assert table.splitlines()[0].split() == ["run", "state", "action", "device-hours", "reason", "train.steps"]
    assert all(run.id in table for run in runs) and "seed" not in table.splitlines()[0]


def test_factored_splits_by_equality():
    values = [parameters(run)[0] for run in (toy_run(0), toy_run(1, mu=0.5), toy_run(0, steps=40))]
    common, differing = factored(values)
    assert common["train.batch"] == 8 and "train.steps" not in common and differing == ["train.steps"]
    assert parameters(toy_run(1, mu=0.5))[0]["coupling"] == "GC (mu=0.5)"
    assert factored([]) == ({}, [])


def test_durations_and_alignment():
    assert [duration(value) for value in (None, 0.4, 59, 75, 7210, 300_000)] == ["-", "0 s", "59 s", "1:15", "2:00:10", "3 d 11 h"]
    assert render(["a", "bb"], [["xyz", "1"]], right=["bb"]).plain.split("\n") == ["a    bb", "xyz   1"]


def test_a_thousand_runs_are_planned_in_two_seconds(store):
    runs = [toy_run(seed, mu=mu) for seed in range(100) for mu in (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)]
    for run in runs[::3]:
        done(store, run)
    cpu, console = time.process_time(), Console(file=io.StringIO(), width=200)
    print_plan(make_plan(runs, store), console)
    assert len(console.file.getvalue().splitlines()) > 1000
    assert time.process_time() - cpu < 2.0, "CPU seconds, since other processes share the clock's time"


def test_plans_need_no_torch():
    code = "import sys, harness.sweep.plan, harness.sweep.doctor, harness.sweep.local; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0

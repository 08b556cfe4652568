"""Run folders, records and published files as disks, people and other programs leave them: each is named, and stops nothing else."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from report_support import make_results, make_run
from rich.console import Console as RichConsole
from sweep_support import toy_run

from harness import cli
from harness.commands.verifying import subjects
from harness.config.experiments import expand
from harness.config.selection import Selection
from harness.console import Console
from harness.reporting import load
from harness.reporting.figures_samples import read_points
from harness.store import measurements
from harness.store.files import parse_object
from harness.store.records import valid
from harness.store.runs import RunFolder, State, Store
from harness.sweep.launch import LaunchOptions, launch
from harness.sweep.plan import Action, make_plan
from harness.sweep.progress import Running, line
from harness.sweep.status import status
from harness.sweep.table import emit, render

DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
HEADER = b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999999, 2)}\n"
HUGE = b"\x93NUMPY\x01\x00" + len(HEADER).to_bytes(2, "little") + HEADER
RED = "\x1b[31mred\x1b]0;title\x07"


def lock_of_folders(folder: Path) -> None:
    (folder / "result.json").unlink()
    (folder / "lock" / "000001").mkdir(parents=True)


def lock_is_a_file(folder: Path) -> None:
    (folder / "result.json").unlink()
    (folder / "lock").write_text("")


def odd_owner(folder: Path) -> None:
    (folder / "result.json").unlink()
    (folder / "lock").mkdir()
    (folder / "lock" / "000001").write_text(json.dumps({"time": 1e300, "pid": "x", "host": [RED], "boot": 3}))


def odd_heartbeat(folder: Path) -> None:
    odd_owner(folder)
    (folder / "heartbeat.json").write_text(json.dumps({"step": "abc", "rate": [1], "total": 10**400, "phase": RED, "fid": "nan"}))


def deep_heartbeat(folder: Path) -> None:
    odd_owner(folder)
    (folder / "heartbeat.json").write_bytes(DEEP)


def odd_attempts(folder: Path) -> None:
    odd = {"time": 1e300, "versions": 3, "parts": {"core": 5}, "experiment": "x", "device": ["a"], "commit": 7, "step": "x", "unknown": {}}
    (folder / "attempts.jsonl").write_text(json.dumps(odd) + "\n" + '{"host": "\\ud800"}\n')


def folder_instead(name: str):
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    spoil.__name__ = f"{name} is a folder"
    return spoil


def content(name: str, text: bytes, title: str):
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(text + b"\n")

    spoil.__name__ = f"{name} {title}"
    return spoil


SPOILERS = [
    *(
        folder_instead(name)
        for name in ("config.json", "result.json", "records.jsonl", "attempts.jsonl", "submitted.json", "verified.json")
    ),
    *(content(name, DEEP, "nested") for name in ("config.json", "result.json", "records.jsonl", "attempts.jsonl")),
    *(content(name, b"\xff\xfe\x00", "of bytes") for name in ("config.json", "result.json", "records.jsonl")),
    content(
        "result.json", json.dumps({"step": "x", "seconds": [], "fid": {}, "records": "many", "check": 5, "unknown": 1}).encode(), "odd"
    ),
    content("config.json", b'{"scale": "\\ud800", "unknown": {}}', "with half a pair"),
    content("records.jsonl", b'{"run": {}, "metric": [], "step": {}, "protocol": {}}\n{"value": 1}\n', "without fields"),
    lock_of_folders,
    lock_is_a_file,
    odd_owner,
    odd_heartbeat,
    deep_heartbeat,
    odd_attempts,
]
HARMLESS = {"submitted.json is a folder", "verified.json is a folder", "attempts.jsonl nested", "odd_attempts", "result.json odd"}
"""What no number depends on, and a result of the form of earlier versions, which seals nothing."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    make_results(root, "table1", "toy", (0,))
    return root


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_one_odd_run_folder_stops_nothing_else(finished, tmp_path, capsys, spoil):
    root = tmp_path / "results"
    shutil.copytree(finished, root)
    runs = expand("table1", "toy", (0,))
    odd, *others = [run.id for run in runs]
    spoil(root / "runs" / odd)

    states = {summary.id: summary for summary in status(Store(root))}
    assert odd in states and all(states[name].state is State.DONE for name in others)
    loaded = load.read(root, "own")
    if spoil.__name__ not in HARMLESS:
        assert states[odd].state is not State.DONE or states[odd].reason or any(odd in text for text in loaded.damage)
    assert {run.id for run in loaded.runs.values() if run.done} >= set(others)
    assert len(loaded.frame[loaded.frame.run.isin(others)]) == sum(len(Store(root).folder(name).records()) for name in others)
    for command in (
        ["status"],
        ["plan", "table1", "--scale", "toy", "--seeds", "1"],
        ["report", "table1", "--scale", "toy", "--seeds", "1"],
    ):
        code = cli.main([*command, "--results", str(root)])
        shown = capsys.readouterr()
        assert code == 0, shown.err
        assert odd in shown.out or command[0] == "report"
        assert not {"\x1b", "\x07"} & set(shown.out + shown.err)


def test_the_progress_line_of_a_sweep_survives_an_odd_heartbeat(tmp_path):
    run = expand("table1", "toy", (0,))[0]
    folder = make_run(tmp_path, run)
    odd_heartbeat(folder.path)
    shown = line(Running(run.id, folder.read_heartbeat() or {}))
    assert run.id in shown and "\\x1b" in shown and "\x1b" not in shown


def test_a_record_with_odd_numbers_is_none(finished):
    run = expand("table1", "toy", (0,))[0]
    good = next(row for row in Store(finished).folder(run.id).records() if row["final"])
    assert valid(good)
    for change in ({"resamplings": None}, {"value": 10**400}, {"value": 1e300}, {"n": float("inf")}, {"step": 2**70}, {"sd": float("nan")}):
        assert not valid(good | change), change


def test_json_that_nobody_can_write_again_is_damaged():
    assert parse_object(b'{"text": "\\ud83d\\ude00"}') == {"text": "\U0001f600"}
    for text in (b'{"text": "\\ud800"}', b'{"\\uDFFF": 1}', b'{"a": {"b": ["\\udc00"]}}', DEEP):
        assert parse_object(text) is None


# --- published and measured


def published(finished: Path, root: Path, capsys) -> Path:
    """A results folder with published records of the runs, and measurements; returns its folder of published records."""
    shutil.copytree(finished, root)
    assert cli.main(["publish", "table1", "--scale", "toy", "--results", str(root), "--allow-uncommitted"]) == 0
    shutil.rmtree(root / "runs")
    capsys.readouterr()
    return root / "published" / "toy"


def test_stray_folders_beside_scales_are_named(finished, tmp_path, capsys):
    root = tmp_path / "results"
    folder = published(finished, root, capsys)
    shutil.copytree(folder, root / "published" / "toy.bak")
    for scale in ("toy", "toy.bak"):
        row = measurements.MeasurementRow("theorem1", "gaussian", 1.0, x=4, se=0.1, truth=1.0)
        measurements.write(root, scale, "theory", [row])
    assert cli.main(["report", "table1", "--scale", "toy", "--records", "published", "--results", str(root)]) == 0
    shown = capsys.readouterr().out
    assert str(root / "published" / "toy.bak") in shown and "iCT-GC" in shown
    damage: list[str] = []
    assert set(measurements.read(root, damage).scale) == {"toy"} and any("toy.bak" in text for text in damage)
    assert set(load.read(root, "published").scales) == {"toy"}


@pytest.mark.parametrize("text", [b"{}", b"[]", b'{"runs": []}', b'{"runs": {"x": 3, "y": {"config": []}}}', DEEP])
def test_published_runs_of_another_form_are_left_out(finished, tmp_path, capsys, text):
    root = tmp_path / "results"
    folder = published(finished, root, capsys)
    (folder / "digests.json").unlink()
    (folder / "runs.json").write_bytes(text)
    loaded = load.read(root)
    assert loaded.runs == {} and any(str(folder) in line for line in loaded.damage)
    assert cli.main(["report", "table1", "--scale", "toy", "--results", str(root)]) == 0


def test_published_records_that_are_no_archive_are_left_out(finished, tmp_path, capsys):
    root = tmp_path / "results"
    folder = published(finished, root, capsys)
    (folder / "digests.json").unlink()
    content = gzip.decompress((folder / "records.jsonl.gz").read_bytes())
    lines = [json.loads(row) for row in content.splitlines()]
    lines[-1]["resamplings"] = None  # a final record with a standard deviation
    (folder / "records.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in lines).encode()))
    loaded = load.read(root)
    assert len(loaded.runs) == 3 and len(loaded.frame) == len(lines) - 1 and loaded.damage


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"text", b"\x80\x04.", HUGE, HUGE.replace(b"}", b" ")])
def test_sample_files_of_another_form_are_damaged(tmp_path, content):
    (tmp_path / "step-00000001.npy").write_bytes(content)
    with pytest.raises((ValueError, OSError)):
        read_points(tmp_path / "step-00000001.npy")


# --- the terminal


@pytest.mark.parametrize("console", [Console(file=io.StringIO(), width=300), Console(file=io.StringIO(), width=300, force_terminal=True)])
def test_no_text_reaches_the_terminal_with_its_control_characters(console):
    emit(console, f"plain {RED} \u202e \ud800")
    emit(console, render(["run", "note"], [["a", RED]]))
    console.print(f"{RED}", markup=False, highlight=False)
    shown = console.file.getvalue()
    assert "\x1b[31mred" not in shown and "\x1b]0;" not in shown and "\x07" not in shown and "\u202e" not in shown
    assert shown.count("\\x1b[31mred") == 3
    shown.encode()


def test_the_colours_of_states_stay():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    reference = RichConsole(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    for out in (console, reference):
        emit(out, render(["run", "state"], [["a", "failed"]]))
    assert console.file.getvalue() == reference.file.getvalue() and "\x1b[1;31mfailed" in console.file.getvalue()


def test_what_records_say_reaches_no_terminal_unescaped(finished, tmp_path, capsys):
    root = tmp_path / "results"
    shutil.copytree(finished, root)
    run = expand("table1", "toy", (0,))[0]
    folder = Store(root).folder(run.id)
    folder.add_attempt({"host": RED, "device": RED, "command": RED, "versions": {"torch": RED}, "commit": RED, "step": 0})
    (folder.path / "error.json").write_text(json.dumps({"kind": RED, "message": RED}))
    (folder.path / "records.jsonl").write_text(json.dumps({"run": RED, "metric": RED}) + "\n" + (folder.path / "records.jsonl").read_text())
    (root / "runs" / f"odd{RED.replace('/', '')}").mkdir()
    (root / "measured" / f"toy{RED}").mkdir(parents=True)
    (root / "measured" / f"toy{RED}" / "x.csv").write_text(RED)
    spoilt = next(root.glob("runs/*/samples/*.npy"))
    spoilt.write_bytes(b"")
    np.save(spoilt.with_name("step-odd.npy"), np.zeros(3))
    why = ["why", "table1", "toy", "ic", "w2"]
    for command in (["status"], why, ["report", "table1", "--scale", "toy"], ["report", "--scale", "toy"]):
        assert cli.main([*command, "--results", str(root)]) == 0
        shown = capsys.readouterr()
        assert not {"\x1b", "\x07"} & set(shown.out + shown.err), command
    assert spoilt.name in shown.out, "a sample file without content is named, and there is a page"
    for path in [*root.glob("tables/*"), root / "report.html"]:
        assert not {"\x1b", "\x07"} & set(path.read_text()), path


def test_a_selected_run_with_an_odd_folder_is_planned_again_or_named(finished, tmp_path):
    root = tmp_path / "results"
    shutil.copytree(finished, root)
    runs = expand("table1", "toy", (0,))
    odd_heartbeat(root / "runs" / runs[0].id)
    actions = {row.id: row.action for row in make_plan(runs, Store(root), selection=Selection("table1", "toy", (0,))).rows}
    assert all(actions[run.id] is Action.SKIP for run in runs[1:]) and actions[runs[0].id] is not Action.SKIP


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_run_folder_that_is_a_loop_of_links_is_no_run(finished, tmp_path):
    root = tmp_path / "results"
    shutil.copytree(finished, root)
    (root / "runs" / "loop").symlink_to(root / "runs" / "loop")
    assert "loop" not in {summary.id for summary in status(Store(root))}


# --- sweeps


def odd_runs(store: Store, count: int) -> dict[str, str]:
    """Makes begun runs of the seeds 0, 1, ... odd, each in another way; returns what a message says of each, "" if it can be trained."""
    spoilers = [
        (lock_of_folders, "lock"),
        (folder_instead("result.json"), "result.json"),
        (folder_instead("config.json"), "config.json"),
        (folder_instead("records.jsonl"), "records.jsonl"),
        (folder_instead("error.json"), ""),
        (folder_instead("submitted.json"), ""),
        (folder_instead("heartbeat.json"), ""),
        (lambda folder: os.mkfifo(folder / "heartbeat.json"), ""),
    ]
    assert count == len(spoilers)
    said = {}
    for seed, (spoil, named) in enumerate(spoilers):
        run = toy_run(seed)
        folder = RunFolder.create(store.root, run.id, run.to_dict())
        if named in ("lock", "records.jsonl"):
            folder.write_result({"records": 1})
        spoil(folder.path)
        said[run.id] = named
    return said


@pytest.mark.parametrize("policy", ["default", "retry-failed"])
@pytest.mark.parametrize("executor", ["inline", "local"])
def test_odd_run_folders_stop_no_sweep(tmp_path, executor, policy):
    store = Store(tmp_path)
    said = odd_runs(store, 8)
    runs = [toy_run(seed, steps=20) for seed in range(9)]
    out = io.StringIO()
    options = LaunchOptions(executor=executor, entry="fake_job:main", device="cpu")
    result = launch(make_plan(runs, store, policy), store, options, Console(file=out, width=500))

    assert result.ends[runs[-1].id] == (State.DONE, "")
    for name, named in said.items():
        state, reason = result.ends[name]
        if named:
            assert state is not State.DONE and named in reason, (name, reason)
            assert f"{name}  {state}" in out.getvalue()
        elif policy == "retry-failed":
            assert state is State.DONE, (name, reason)
    assert result.exit_code != 0


def test_one_folder_of_another_account_stops_no_plan(tmp_path, monkeypatch):
    """Python's Path.exists raises where a folder may not be searched."""
    store, runs = Store(tmp_path), [toy_run(0), toy_run(1)]
    forbidden = str(RunFolder.create(store.root, runs[0].id, runs[0].to_dict()).path)

    def refuse(real):
        def call(path, *arguments, **options):
            if str(path).startswith(forbidden):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *arguments, **options)

        return call

    for name in ("open", "stat", "listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse(getattr(os, name)))
    plan = make_plan(runs, store, "retry-failed")
    assert [row.action for row in plan.rows] == [Action.REFUSE, Action.START] and "Permission denied" in plan.rows[0].reason
    result = launch(plan, store, LaunchOptions(executor="inline", entry="fake_job:main", device="cpu"), Console(file=io.StringIO()))
    assert [result.ends[run.id][0] for run in runs] == [State.FAILED, State.DONE]


def test_verify_names_an_odd_run_and_takes_the_others(finished, tmp_path):
    root = tmp_path / "results"
    shutil.copytree(finished, root)
    odd, *others = [run.id for run in expand("table1", "toy", (0,))]
    lock_of_folders(root / "runs" / odd)
    damage: list[str] = []
    assert sorted(subject.name for subject in subjects(root, damage)) == sorted(others)
    assert len(damage) == 1 and odd in damage[0]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
def test_a_file_of_measurements_that_is_none_is_named(tmp_path, kind):
    path = tmp_path / "measured" / "toy" / "theory.csv"
    path.parent.mkdir(parents=True)
    make = {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "loop": lambda: path.symlink_to(path.name)}
    make.get(kind, lambda: path.symlink_to("/dev/zero"))()
    damage: list[str] = []
    assert measurements.read(tmp_path, damage).empty
    assert len(damage) == 1 and str(path) in damage[0]


@pytest.mark.parametrize("kind", ["file", "loop"])
def test_published_records_that_are_no_folder_are_named(finished, tmp_path, kind):
    root = tmp_path / "results"
    shutil.copytree(finished, root)
    place = root / "published"
    place.write_text("") if kind == "file" else place.symlink_to(place.name)
    own, both = load.read(root), load.read(root, "both")
    assert own.records == "own" and not own.damage
    assert len(both.runs) == 3 and [str(place) in text for text in both.damage] == [True]

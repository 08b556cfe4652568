"""Numbers stay tied to what made them: tampering with real runs is named by every command, other code is told and can be verified."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from sweep_support import toy_run
from test_job import finish, last_state, rows
from train_support import difference, tiny_run

from harness import cli
from harness.config.baselines import baseline_jobs
from harness.config.selection import Selection
from harness.errors import HarnessError
from harness.reporting import load
from harness.store import chain, fingerprint, measurements, provenance, published, record_file, verified
from harness.store.exit_codes import ExitCode
from harness.store.measurements import MeasurementRow
from harness.store.runs import RunFolder, State, Store
from harness.sweep.launch import LaunchOptions, launch
from harness.sweep.plan import RETRAIN, Action, Plan, code_line, make_plan
from harness.sweep.status import status, table
from harness.training import job, trained_runs

RUN, OTHER = tiny_run("gc"), tiny_run("ic")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A results folder with two finished runs."""
    root = tmp_path_factory.mktemp("trained")
    for run in (RUN, OTHER):
        finish(root, run)
    return root


@pytest.fixture
def root(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "results"))


def folder(root: Path, run=RUN) -> RunFolder:
    return Store(root).folder(run.id)


def write(path: Path, records: list[dict]) -> None:
    path.write_bytes(record_file.encode_lines(records))


# --- tampering with the records of a finished run


def copied(records: list[dict], others: list[dict]) -> list[dict]:
    return others


def inserted(records: list[dict], others: list[dict]) -> list[dict]:
    return [*records[:4], *others[2:5], *records[4:]]


def changed(records: list[dict], others: list[dict]) -> list[dict]:
    return [{**row, "value": 0.01} if row["final"] and row["metric"] == "w2" else row for row in records]


def repeated(records: list[dict], others: list[dict]) -> list[dict]:
    (row,) = [row for row in records if row["final"] and row["metric"] == "w2"]
    return [*records, {**row, "value": 0.01}]


def beyond(records: list[dict], others: list[dict]) -> list[dict]:
    return [*records, {**records[0], "step": 10**9}]


def of_another_protocol(records: list[dict], others: list[dict]) -> list[dict]:
    return [{**row, "protocol": "f" * 12} if row["step"] == 20 and row["metric"] == "w2" else row for row in records]


def removed(records: list[dict], others: list[dict]) -> list[dict]:
    return [row for row in records if row["step"] != 20]


TAMPERINGS = {
    copied: [OTHER.id],
    inserted: [OTHER.id, "3 records"],
    changed: ["step 24 w2 (final)", "changed"],
    repeated: ["step 24 w2 (final)"],
    beyond: ["step 1000000000"],
    of_another_protocol: ["step 20 w2", "changed"],
    removed: ["missing"],
}


@pytest.fixture(params=TAMPERINGS, ids=lambda tampering: tampering.__name__)
def tampered(request, root) -> tuple[RunFolder, list[str]]:
    """The folder whose records were tampered with, and what messages have to say."""
    records = folder(root).records()
    write(folder(root).path / record_file.NAME, request.param(records, folder(root, OTHER).records()))
    return folder(root), TAMPERINGS[request.param]


def test_status_plan_and_measure_name_records_that_do_not_fit(tampered, root):
    run_folder, facts = tampered
    (summary,) = status(Store(root), [RUN])
    (row,) = make_plan([RUN], Store(root)).rows
    with pytest.raises(HarnessError) as caught:
        trained_runs.load(run_folder)
    for text in (summary.reason, row.reason, str(caught.value)):
        assert all(fact in text for fact in facts), text
    assert summary.state is State.STOPPED and row.action is Action.CONTINUE and RUN.id in str(caught.value)
    assert status(Store(root), [OTHER])[0].reason == ""


def test_running_again_restores_them_from_the_checkpoint_and_says_so(tampered, root, trained, capsys):
    run_folder, facts = tampered
    capsys.readouterr()
    finish(root, RUN)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "restored" in line]
    assert RUN.id in line and all(fact in line for fact in facts)
    key = lambda row: (row["step"], row["metric"], row["final"])  # noqa: E731
    assert sorted(rows(run_folder), key=key) == sorted(rows(folder(trained)), key=key)
    assert run_folder.state() is State.DONE and run_folder.records_fault() == ""
    assert difference(last_state(run_folder), last_state(folder(trained))) == []
    kept = run_folder.path / "records-1.damaged"
    assert kept.exists(), "what was there before is kept"


def test_a_report_leaves_out_what_does_not_fit_and_keeps_the_rest(tampered, root, trained):
    _, facts = tampered
    before, after = load.read(trained, "own"), load.read(root, "own")
    damage = [text for text in after.damage if RUN.id in text]
    assert len(damage) == 1 and all(fact in damage[0] for fact in facts)
    columns = ["step", "metric", "value", "final", "protocol"]
    measured = set(before.frame[before.frame.run == RUN.id][columns].itertuples(index=False, name=None))
    shown = set(after.frame[after.frame.run == RUN.id][columns].itertuples(index=False, name=None))
    assert shown <= measured
    others = after.frame[after.frame.run == OTHER.id]
    assert len(others) == sum(before.frame.run == OTHER.id) and not before.damage
    if shown and "missing" not in facts:
        assert after.runs[RUN.id].done and len(measured - shown) <= 1


def test_records_and_result_of_the_same_run_elsewhere_do_not_mix(root):
    """The numbers of another processor under the same run id: each record fits, but not the seal."""
    elsewhere = [{**row, "value": row["value"] * (1 + 1e-7)} for row in folder(root).records()]
    write(folder(root).path / record_file.NAME, chain.linked(elsewhere, RUN.id))
    loaded = load.read(root, "own")
    assert not (loaded.frame.run == RUN.id).any() and any("result.json" in text for text in loaded.damage)


def test_run_refuses_an_edited_config(root, capsys):
    path = folder(root).path / "config.json"
    config = json.loads(path.read_text())
    config["train"]["lr"] *= 2
    path.write_text(json.dumps(config))
    shutil.rmtree(folder(root).path / "checkpoints")
    (folder(root).path / "result.json").unlink()
    for command in (["run", RUN.id], ["measure", RUN.id]):
        assert cli.main([*command, "--results", str(root)]) == ExitCode.BAD_INPUT
        message = capsys.readouterr().err
        assert RUN.id in message and str(path) in message
    assert not folder(root).stored_steps()
    loaded = load.read(root, "own")
    assert RUN.id not in loaded.runs and any(str(path) in text for text in loaded.damage)


def test_a_run_of_an_earlier_version_is_read_resumed_and_sealed(root, trained, capsys):
    """Records without checksums, a result without a seal: as written by commit 2065167."""
    run_folder = folder(root)
    records = [{key: value for key, value in row.items() if key != "check"} for row in run_folder.records()]
    result = {key: value for key, value in run_folder.result().items() if key not in ("check", "records_sha256", "fingerprint")}
    write(run_folder.path / record_file.NAME, records)
    (run_folder.path / "result.json").write_text(json.dumps(result))
    assert run_folder.state() is State.DONE
    loaded = load.read(root, "own")
    assert not loaded.damage and loaded.runs[RUN.id].done
    write(run_folder.path / record_file.NAME, [*records, *folder(root, OTHER).records()[:2], {**records[0], "value": 0.0}])
    damage = "\n".join(load.read(root, "own").damage)
    assert OTHER.id in damage and "step 10" in damage
    write(run_folder.path / record_file.NAME, records)
    (run_folder.path / "result.json").unlink()
    finish(root, RUN)
    assert rows(run_folder) == rows(folder(trained)) and "restored" not in capsys.readouterr().out
    assert run_folder.result()["check"] == chain.end(run_folder.records(), RUN.id)


# --- by which code


def other_code(run_folder: RunFolder, *parts: str) -> None:
    """Makes a run one of code that differs in these parts."""
    (attempt,) = run_folder.attempts()
    changes = {part: "0" * 12 for part in parts}
    (run_folder.path / "attempts.jsonl").write_text(json.dumps({**attempt, "parts": {**attempt["parts"], **changes}}) + "\n")


def sweep(root: Path, runs, policy="default") -> Plan:
    plan = make_plan(runs, Store(root), policy)
    launch(plan, Store(root), LaunchOptions("inline", device="cpu"), Console(file=io.StringIO(), width=300))
    return plan


def test_attempt_and_result_keep_the_fingerprint(trained):
    (attempt,) = folder(trained).attempts()
    assert attempt["fingerprint"] == folder(trained).result()["fingerprint"] == fingerprint.current()
    assert attempt["parts"] == fingerprint.parts() and attempt["experiment"] is None


def test_other_code_is_told_and_nothing_is_trained(root, trained):
    other_code(folder(root), "core", "metrics")
    before = folder(root).records()
    plan = make_plan([RUN, OTHER], Store(root), selection=Selection("table1", "toy", results=root))
    first, second = (next(row for row in plan.rows if row.id == run.id) for run in (RUN, OTHER))
    assert first.action is second.action is Action.SKIP
    assert "core, metrics" in first.reason and second.reason == "done"
    line = code_line(plan)
    assert "1 run " in line and "core, metrics" in line and f"--policy {RETRAIN}" in line and str(root) in line
    shown = table(status(Store(root))).plain
    assert shown.count("core, metrics") == 2, "in the note of the run and in the line of totals"
    loaded = load.read(root, "own")
    assert "core, metrics" in loaded.code and "core, metrics" in loaded.runs[RUN.id].made_by.note
    sweep(root, [RUN, OTHER])
    assert folder(root).records() == before and not list(folder(root).path.glob("old-*"))
    assert code_line(make_plan([OTHER], Store(root))) == "" == load.read(trained, "own").code


def test_the_policy_trains_runs_of_other_code_again_and_keeps_their_results(root):
    other_code(folder(root), "training")
    before = folder(root).records()
    plan = sweep(root, [RUN, OTHER], RETRAIN)
    assert {row.id: row.action for row in plan.rows} == {RUN.id: Action.START, OTHER.id: Action.SKIP}
    assert RunFolder(folder(root).path / "old-1").records() == before
    assert folder(root).state() is State.DONE and rows(folder(root)) == [
        {key: value for key, value in row.items() if key not in ("seconds", "check")} for row in before
    ]
    assert not list(folder(root, OTHER).path.glob("old-*"))
    assert all(row.reason == "done" for row in make_plan([RUN, OTHER], Store(root), RETRAIN).rows)


def test_a_run_is_trained_again_after_one_that_it_needs(tmp_path):
    store, needed = Store(tmp_path), toy_run(0)
    dependant = toy_run(1, mu=0.5, frozen=needed.id)
    for run, changes in ((needed, {"core": "0" * 12}), (dependant, {})):
        run_folder = RunFolder.create(store.root, run.id, run.to_dict())
        run_folder.add_attempt({"parts": {**fingerprint.parts(), **changes}})
        run_folder.write_result({"fid": 1.0})
    first, second = make_plan([needed, dependant], store, RETRAIN).rows
    assert first.action is second.action is Action.START and needed.id in second.reason and second.needs == (needed.id,)


def test_baselines_do_not_depend_on_the_training_code(tmp_path):
    (baselines,) = baseline_jobs([toy_run()])
    run_folder = RunFolder.create(tmp_path, baselines.id, baselines.to_dict())
    run_folder.write_result({"step": 1})
    (run_folder.path / "attempts.jsonl").write_text(json.dumps({"parts": {**fingerprint.parts(), "training": "0" * 12}}) + "\n")
    assert status(Store(tmp_path), [baselines])[0].made_by.note == ""
    (run_folder.path / "attempts.jsonl").write_text(json.dumps({"parts": {**fingerprint.parts(), "metrics": "0" * 12}}) + "\n")
    assert "metrics" in status(Store(tmp_path), [baselines])[0].made_by.note


def test_a_sweep_names_its_experiment_in_the_attempts(tmp_path, monkeypatch):
    path = tmp_path / "experiments" / "cells.py"
    path.parent.mkdir()
    path.write_text("def runs(scale, seeds):\n    return []\n")
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(path.parent))
    plan = make_plan([OTHER], Store(tmp_path), selection=Selection("cells", "toy", results=tmp_path))
    launch(plan, Store(tmp_path), LaunchOptions("inline", device="cpu"), Console(file=io.StringIO()))
    (attempt,) = folder(tmp_path, OTHER).attempts()
    assert attempt["experiment"]["name"] == "cells" and len(attempt["experiment"]["sha256"]) == 12


def test_an_unknown_commit_is_said_once_at_the_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(provenance, "code", lambda: {"commit": None, "dirty": None})
    monkeypatch.setattr(provenance, "unavailable", lambda: "detected dubious ownership")
    finish(tmp_path, OTHER)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "dubious ownership" in line]
    assert fingerprint.current() in line


# --- verification


def verify(root: Path, *targets: str) -> int:
    return cli.main(["verify", *targets, "--results", str(root), "--executor", "inline", "--device", "cpu"])


def test_runs_that_are_equal_when_trained_again_no_longer_count_as_other(root, capsys):
    for run in (RUN, OTHER):
        other_code(folder(root, run), "core")
    assert verify(root, RUN.id) == 0
    assert "1 of 1 equal" in capsys.readouterr().out
    content = json.loads((folder(root).path / verified.NAME).read_text())["verifications"]
    assert content[0]["fingerprint"] == fingerprint.current() and content[0]["versions"]["torch"] and content[0]["device"]
    assert content[0]["runs"][RUN.id] == {"records": len(folder(root).records()), "equal": True, "different": 0, "first": []}
    summaries = status(Store(root))
    assert "verified equal on 1 of 2" in table(summaries).plain and "1 of 2" in load.read(root, "own").code
    plan = make_plan([RUN, OTHER], Store(root), RETRAIN)
    assert {row.id: row.action for row in plan.rows} == {RUN.id: Action.SKIP, OTHER.id: Action.START}
    assert not list(folder(root).path.glob("old-*")), "the run itself stays as it is"


def test_a_difference_is_found_and_said(root, capsys):
    run_folder = folder(root, OTHER)
    other_code(run_folder, "core")
    records = [{**row, "value": row["value"] * (1 + 1e-15)} if row["step"] == 20 else row for row in run_folder.records()]
    records = chain.linked(records, OTHER.id)
    write(run_folder.path / record_file.NAME, records)
    (run_folder.path / "result.json").write_text(json.dumps({**run_folder.stored_result(), **run_folder.seal_of_records()}))
    assert verify(root, OTHER.id) == 1
    assert "NOT equal" in (printed := capsys.readouterr().out) and "step 20" in printed and "0 of 1 equal" in printed
    (row,) = make_plan([OTHER], Store(root)).rows
    assert "NOT equal" in row.reason and row.made_by.other
    capsys.readouterr()
    assert verify(root, "zzz") == ExitCode.BAD_INPUT and "zzz" in capsys.readouterr().err


# --- publishing


@pytest.fixture
def publishable(root, monkeypatch) -> Path:
    """The results folder, and an experiment `cells` that asks for its runs; their commit is that of the checkout, all committed."""
    place = root.parent / "experiments"
    place.mkdir()
    tests = str(Path(__file__).parent)
    text = f"import sys\nsys.path.insert(0, {tests!r})\nfrom train_support import tiny_run\nSEEDS = 1\n"
    (place / "cells.py").write_text(text + "def runs(scale, seeds):\n    return [tiny_run('gc'), tiny_run('ic')]\n")
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(place))
    if provenance.code()["commit"] is None:
        pytest.skip("not a git checkout")
    for run in (RUN, OTHER):
        change_attempt(root, run, commit=provenance.code()["commit"], dirty=None, experiment=None, command="job RUN")
    return root


def change_attempt(root: Path, run, **changes) -> None:
    path = folder(root, run).path / "attempts.jsonl"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}) + "\n")


def publish(root: Path, *options: str) -> int:
    return cli.main(["publish", "cells", "--scale", "toy", "--results", str(root), *options])


def entries(root: Path) -> dict:
    return json.loads((root / "published" / "toy" / "runs.json").read_text())["runs"]


REFUSED = {
    "unknown": ({"commit": None, "commit_unknown": "git is not installed"}, "git is not installed"),
    "dirty": ({"dirty": "0123456789ab"}, "uncommitted changes"),
    "elsewhere": ({"commit": "0" * 40}, "0000000"),
    "experiment": ({"experiment": {"name": "mu3", "sha256": "0" * 12}}, "mu3"),
    "edited": ({"experiment": {"name": "table1", "sha256": "0" * 12}}, "table1"),
    "named in the command": ({"command": "harness sweep mu3 --scale digits --quiet"}, "mu3"),
}


@pytest.mark.parametrize("changes,fact", REFUSED.values(), ids=REFUSED)
def test_runs_that_cannot_be_traced_to_a_commit_are_refused(publishable, capsys, changes, fact):
    change_attempt(publishable, RUN, **changes)
    assert publish(publishable) == ExitCode.BAD_INPUT
    message = capsys.readouterr().err
    assert RUN.id in message and fact in message and OTHER.id not in message and "--allow-uncommitted" in message
    assert not (publishable / "published").exists()
    assert publish(publishable, "--allow-uncommitted") == 0
    assert fact in entries(publishable)[RUN.id]["uncommitted"] and "uncommitted" not in entries(publishable)[OTHER.id]


def test_published_runs_carry_the_fingerprint_and_what_asked_for_them(publishable):
    content = provenance.git("show", "HEAD:experiments/table1.py")
    asked = {"name": "table1", "sha256": hashlib.sha256(content).hexdigest()[:12]}
    change_attempt(publishable, RUN, experiment=asked)
    old = {key: value for key, value in folder(publishable, OTHER).attempts()[0].items() if key not in ("fingerprint", "parts")}
    (folder(publishable, OTHER).path / "attempts.jsonl").write_text(json.dumps(old) + "\n")
    assert publish(publishable) == 0
    (first,) = entries(publishable)[RUN.id]["attempts"]
    (second,) = entries(publishable)[OTHER.id]["attempts"]
    assert first["fingerprint"] == fingerprint.current() and first["experiment"] == asked
    assert second["fingerprint"] == fingerprint.of_commit(old["commit"]), "of an earlier version: from its commit"


def test_runs_published_by_an_earlier_version_get_a_fingerprint_or_a_note(publishable, capsys):
    assert publish(publishable) == 0
    path = publishable / "published" / "toy" / "runs.json"
    content = json.loads(path.read_text())
    for name, command in ((RUN.id, "harness sweep table1 --scale toy"), (OTHER.id, "harness sweep mu3 --scale toy")):
        (attempt,) = content["runs"][name]["attempts"]
        content["runs"][name]["attempts"] = [{"commit": attempt["commit"], "dirty": None, "command": command}]
    path.write_text(json.dumps(content))
    path.with_name(published.NAME).unlink()
    shutil.rmtree(folder(publishable, OTHER).path)
    capsys.readouterr()
    assert publish(publishable) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "mu3" in line]
    assert OTHER.id in line and RUN.id not in line
    entry = entries(publishable)[OTHER.id]
    assert "mu3" in entry["uncommitted"] and entry["attempts"][0]["fingerprint"] and "uncommitted" not in entries(publishable)[RUN.id]


def test_records_that_do_not_fit_are_not_published(publishable, capsys):
    path = folder(publishable).path / record_file.NAME
    write(path, changed(folder(publishable).records(), []))
    assert publish(publishable) == ExitCode.BAD_INPUT
    message = capsys.readouterr().err
    assert RUN.id in message and "step 24 w2 (final)" in message and f"harness run {RUN.id}" in message
    finish(publishable, RUN)
    attempts = [attempt | {"dirty": None} for attempt in folder(publishable).attempts()]
    (folder(publishable).path / "attempts.jsonl").write_bytes(record_file.encode_lines(attempts))
    assert publish(publishable) == 0


@pytest.fixture
def public(publishable) -> Path:
    """A published scale whose run folders are gone."""
    measurements.write(publishable, "toy", "figure2", [MeasurementRow("rtil", "eight-gaussians", 4.8, "ic", x=1.0)])
    assert publish(publishable) == 0
    shutil.rmtree(publishable / "runs")
    shutil.rmtree(publishable / "measured")
    return publishable / "published" / "toy"


def damage_of(public: Path) -> tuple[load.LoadedResults, str]:
    loaded = load.read(public.parents[1], "published")
    measured = measurements.read(public.parents[1], loaded.damage)
    assert len(measured) + sum("figure2.csv" in text for text in loaded.damage) == 1
    return loaded, "\n".join(loaded.damage)


def repack(public: Path, change) -> None:
    path = public / published.RECORDS
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    path.write_bytes(gzip.compress(record_file.encode_lines(change(lines)), mtime=0))


def test_published_files_that_fit_are_read_without_a_word(public):
    loaded, damage = damage_of(public)
    assert damage == "" and {RUN.id, OTHER.id} == loaded.runs.keys() and loaded.runs[RUN.id].made_by.note == ""
    assert "check" not in gzip.decompress((public / published.RECORDS).read_bytes()).decode()


def test_a_changed_published_record_leaves_out_its_run(public, capsys):
    repack(public, lambda lines: [{**line, "value": 0.01} if line["run"] == RUN.id and line["final"] else line for line in lines])
    loaded, damage = damage_of(public)
    assert loaded.runs.keys() == {OTHER.id} and RUN.id in damage and "records" in damage and OTHER.id not in damage
    (public / published.NAME).unlink()
    assert damage_of(public)[1] == "", "folders published before there were checksums are read"


def test_a_changed_entry_leaves_out_its_run(public):
    path = public / "runs.json"
    content = json.loads(path.read_text())
    content["runs"][RUN.id]["attempts"][0]["commit"] = "0" * 40
    path.write_text(json.dumps(content))
    loaded, damage = damage_of(public)
    assert loaded.runs.keys() == {OTHER.id} and RUN.id in damage


def test_changed_missing_and_added_files_are_named(public):
    (public / "measured" / "figure2.csv").write_text("quantity,data,value\nrtil,eight-gaussians,1.0\n")
    (sample,) = (public / "samples").glob(f"{RUN.id}.*")
    sample.write_bytes(b"other")
    (other,) = (public / "samples").glob(f"{OTHER.id}.*")
    other.unlink()
    shutil.copy(public / "runs.json", public / "samples" / "new.npy")
    loaded, damage = damage_of(public)
    assert all(name in damage for name in ("figure2.csv", sample.name, other.name, "new.npy"))
    assert loaded.runs[RUN.id].samples == () and loaded.runs.keys() == {RUN.id, OTHER.id}


def test_publishing_over_changed_files_is_refused_until_told_to_replace(publishable, capsys):
    assert publish(publishable) == 0
    public = publishable / "published" / "toy"
    repack(public, lambda lines: [*lines, {**lines[0], "step": 7}])
    assert publish(publishable) == ExitCode.BAD_INPUT
    assert published.RECORDS in capsys.readouterr().err
    assert publish(publishable, "--replace") == 0 and published.misfits(public) == {}


def test_runs_json_without_runs_is_a_message(public, publishable, capsys):
    (public / published.NAME).unlink()
    (public / "runs.json").write_text('{"format": 1}')
    finish(publishable, RUN)
    capsys.readouterr()
    assert publish(publishable, "--allow-uncommitted") == ExitCode.BAD_INPUT
    assert "runs.json" in capsys.readouterr().err
    assert any("runs.json" in text for text in load.read(publishable, "published").damage)


def test_what_was_verified_is_published_as_well(publishable):
    assert verify(publishable, RUN.id) == 0 and publish(publishable) == 0
    assert verified.read(publishable / "published" / "toy", fingerprint.current()) == {RUN.id: True}


def test_published_runs_are_verified_beside_their_records(public, publishable, capsys):
    assert verify(publishable, RUN.id) == 0
    assert verified.read(public, fingerprint.current()) == {RUN.id: True}
    assert damage_of(public)[1] == "", "the verification itself is not one of the checked files"
    path = public / "runs.json"
    content = json.loads(path.read_text())
    for name in (RUN.id, OTHER.id):
        content["runs"][name]["attempts"][0]["parts"]["core"] = "0" * 12
    path.write_text(json.dumps(content))
    (public / published.NAME).unlink()
    assert "verified equal on 1 of 2" in load.read(publishable, "published").code


def test_a_done_job_says_so_without_training(root, capsys):
    assert job.main([str(folder(root).path), "--device", "cpu"]) == ExitCode.DONE
    assert "done already" in capsys.readouterr().out

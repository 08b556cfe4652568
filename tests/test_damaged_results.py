"""Damage that would give wrong numbers: checkpoints with other weights, edited configs, lost records of finished runs."""

from __future__ import annotations

import json
import math

import pytest
from sweep_support import toy_run
from test_checkpoint import flipped, newest, state
from test_job import failed, finish, last_state, make, rows
from train_support import difference, tiny_run

from harness.config.baselines import stored_job
from harness.config.identity import identity_digest
from harness.config.parts import EasyConsistencyTuning, GeneratorAugmented, Init
from harness.errors import ConfigMismatch, DamagedFile
from harness.store.exit_codes import ExitCode
from harness.store.runs import RunFolder, State, Store
from harness.sweep.plan import Action, make_plan
from harness.sweep.status import status
from harness.training import checkpoints, job, trained_runs

# --- checkpoints


def test_a_damaged_last_checkpoint_of_a_done_run_is_never_replaced_by_an_older_one(tmp_path, capsys):
    first = tiny_run("ic", keep_steps=(5,))
    needed = finish(tmp_path, first)
    assert needed.stored_steps() == [5, 21, 24]
    flipped(needed.path / "checkpoints" / "step-00000024.pt")
    frozen = GeneratorAugmented(mu=1.0, predictor="frozen", frozen=first.id)
    tuned = tiny_run("ic", steps=1, objective=EasyConsistencyTuning(), init=Init(kind="run", ref=first.id))
    for run in (tiny_run(frozen), tuned):
        failed(make(tmp_path, run), ExitCode.BAD_INPUT, "input", capsys, "step-00000024.pt", f"harness clear {first.id}")
    with pytest.raises(DamagedFile) as caught:
        trained_runs.load(needed)
    assert "step-00000024.pt" in caught.value.details["where"] and f"harness clear {first.id}" in caught.value.details["nearest"]
    finish(tmp_path, tiny_run(frozen.model_copy(update={"frozen_step": 5})))
    assert trained_runs.load(needed, step=5).run == first


@pytest.fixture
def older(tmp_path):
    checkpoints.save(tmp_path, "run-a", 10, state(10))
    return tmp_path


@pytest.mark.parametrize("part", ["online", "ema"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_checkpoint_with_a_weight_that_is_not_finite_is_damaged(older, part, value):
    spoilt = {**state(20), "ema": state(20)["online"]}
    spoilt[part] = {"w": spoilt["online"]["w"].clone()}
    spoilt[part]["w"][7] = value
    checkpoints.save(older, "run-a", 20, spoilt)
    with pytest.raises(DamagedFile) as caught:
        checkpoints.load(older, "run-a", 20)
    assert "step-00000020.pt" in caught.value.details["where"] and f"{part}.w" in caught.value.details["found"]
    step, warnings = newest(older)
    assert step == 10 and len(warnings) == 1


def test_a_checkpoint_of_another_step_than_its_name_is_damaged(older):
    checkpoints.save(older, "run-a", 20, state(19))
    with pytest.raises(DamagedFile) as caught:
        checkpoints.load(older, "run-a", 20)
    assert caught.value.details["found"] == "19" and "20" in caught.value.details["expected"]
    assert newest(older)[0] == 10


def test_a_checkpoint_beyond_the_end_of_its_run_is_not_resumed(tmp_path, capsys):
    run = tiny_run("ic")
    folder = finish(tmp_path, run)
    before = last_state(folder)
    (folder.path / "result.json").unlink()
    checkpoints.save(folder.path / "checkpoints", folder.id, 30, {**before, "step": 30})
    finish(tmp_path, run)
    assert "step-00000030.pt" in capsys.readouterr().err
    assert folder.result()["step"] == 24 and difference(last_state(folder), before) == []


# --- configs


def edited(folder: RunFolder) -> str:
    """Doubles train.lr in config.json; returns the hash of the run that the config now describes."""
    config = folder.config()
    config["train"]["lr"] *= 2
    (folder.path / "config.json").write_text(json.dumps(config))
    return identity_digest(config)[:12]


def test_an_edited_config_is_not_trained_under_the_old_id(tmp_path, capsys):
    new, done = make(tmp_path, tiny_run("ic")), finish(tmp_path, tiny_run("gc"))
    digest = edited(new)
    failed(new, ExitCode.BAD_INPUT, "input", capsys, new.id, digest, str(new.path / "config.json"))
    assert not new.stored_steps()
    digest = edited(done)
    assert job.main([str(done.path)]) == ExitCode.BAD_INPUT
    printed = capsys.readouterr().err
    assert done.id in printed and digest in printed
    with pytest.raises(ConfigMismatch) as caught:
        trained_runs.load(done)
    assert caught.value.details["expected"] == done.id and digest in caught.value.details["found"]


def test_status_names_an_edited_config_and_shows_the_other_runs(tmp_path):
    runs = [toy_run(seed) for seed in range(3)]
    folders = [make(tmp_path, run) for run in runs]
    for folder in folders[:2]:
        folder.write_result({"fid": 2.0})
    digests = [edited(folders[1]), edited(folders[2])]
    for jobs in (None, runs):
        summaries = {summary.id: summary for summary in status(Store(tmp_path), jobs)}
        assert summaries[runs[0].id].reason == "" and summaries[runs[0].id].fid == 2.0
        for run, digest in zip(runs[1:], digests, strict=True):
            assert run.id in summaries[run.id].reason and digest in summaries[run.id].reason


def test_a_config_from_before_a_key_existed_keeps_its_id(tmp_path):
    run = tiny_run("ot")
    without_size = run.to_dict()
    del without_size["coupling"]["size"]
    assert stored_job(without_size, run.id) == run
    older = run.to_dict()
    del older["ema"]["copy_steps"]
    assert stored_job(older, f"{run.slug}-{identity_digest(older)[:12]}").slug == run.slug
    with pytest.raises(ConfigMismatch):
        stored_job(older, run.id)


# --- records


def lost(folder: RunFolder) -> None:
    (folder.path / "records.jsonl").unlink()


def cut(folder: RunFolder) -> None:
    path = folder.path / "records.jsonl"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SEAL = ("check", "records_sha256")
"""What result.json keeps of the records that were measured again, with other times."""


def unsealed(folder: RunFolder) -> dict:
    return {key: value for key, value in folder.result().items() if key not in SEAL}


@pytest.mark.parametrize("damage", [lost, cut])
def test_lost_records_of_a_done_run_are_restored(tmp_path, capsys, damage):
    run = tiny_run("gc")
    folder, store = finish(tmp_path, run), Store(tmp_path)
    records, result, weights = rows(folder), folder.result(), last_state(folder)
    assert result["records"] == len(records) and make_plan([run], store).rows[0].action is Action.SKIP
    damage(folder)
    count = len(records) - len(folder.records())
    assert folder.state() is State.STOPPED and str(count) in status(store)[0].reason
    (row,) = make_plan([run], store).rows
    assert row.action is Action.CONTINUE and row.step == row.steps and str(count) in row.reason and "records" in row.reason
    finish(tmp_path, run)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "records" in line]
    assert folder.id in line and str(count) in line
    key = lambda record: (record["step"], record["metric"], record["final"])  # noqa: E731
    assert sorted(rows(folder), key=key) == sorted(records, key=key)
    assert unsealed(folder) == {key: value for key, value in result.items() if key not in SEAL}
    assert difference(last_state(folder), weights) == []
    assert make_plan([run], store).rows[0].action is Action.SKIP


def test_a_last_record_that_lacks_only_its_newline_is_not_lost(tmp_path):
    folder = make(tmp_path, toy_run())
    folder.append_records([{"step": 1}, {"step": 2}])
    folder.write_result({"records": 2})
    path = folder.path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert folder.state() is State.DONE and folder.records_fault() == ""
    path.write_bytes(path.read_bytes()[:-1])
    assert folder.result() is None and "1 of" in folder.records_fault()


def test_results_of_earlier_versions_do_not_count_their_records(tmp_path):
    folder = make(tmp_path, toy_run())
    folder.write_result({"fid": 1.0})
    assert folder.state() is State.DONE and folder.records_fault() == ""

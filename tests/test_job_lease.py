"""A job and the lease of its folder: it writes nothing into a folder that it does not own, and releases it last."""

from __future__ import annotations

from test_job import EVALUATION, failed, make
from train_support import tiny_run

from harness.store.exit_codes import ExitCode
from harness.store.lease import holder
from harness.store.runs import RunFolder
from harness.training import checkpoints, evaluation, job


def test_a_second_owner_is_refused_and_writes_nothing(tmp_path, capsys):
    folder = make(tmp_path, tiny_run())
    with folder.acquire():
        failed(folder, ExitCode.BUSY, None, capsys, str(folder.path))
    assert not (folder.path / "checkpoints").exists()


def test_a_lost_lease_ends_the_job_before_it_writes(tmp_path, monkeypatch, capsys):
    folder, save = make(tmp_path, tiny_run(evaluation=EVALUATION)), checkpoints.save

    def save_and_lose_the_lease(*args, **options):
        (folder.path / "lock" / "000099").write_text("{}")
        return save(*args, **options)

    monkeypatch.setattr(checkpoints, "save", save_and_lose_the_lease)
    failed(folder, ExitCode.BUSY, None, capsys, str(folder.path), "generation 1")
    assert folder.stored_steps() == [7]


def test_a_failure_is_recorded_while_the_folder_is_still_owned(tmp_path, monkeypatch):
    """Written after the release, it could end up in the next start, which another launcher may have begun meanwhile."""
    folder, owned = make(tmp_path, tiny_run()), []
    write = RunFolder.write_error
    monkeypatch.setattr(RunFolder, "write_error", lambda self, *args: owned.append(not holder(self.path).free()) or write(self, *args))
    monkeypatch.setattr(job, "train", lambda *args, **options: 1 / 0)
    assert job.main([str(folder.path)]) == ExitCode.FAILED
    assert owned == [True] and folder.error()["kind"] == "crash" and holder(folder.path).released


def test_a_failure_after_the_lease_was_lost_is_not_written_into_the_others_folder(tmp_path, monkeypatch, capsys):
    folder = make(tmp_path, tiny_run())

    def lose_the_lease_and_crash(*args, **options):
        (folder.path / "lock" / "000099").write_text("{}")
        return 1 / 0

    monkeypatch.setattr(job, "train", lose_the_lease_and_crash)
    assert job.main([str(folder.path)]) == ExitCode.BUSY
    assert folder.error() is None and "generation 1" in capsys.readouterr().err


def test_a_lost_lease_is_seen_before_records_are_written(tmp_path, monkeypatch, capsys):
    """Another process takes the folder over while this process measures."""
    folder, measure = make(tmp_path, tiny_run()), evaluation.measure_samples

    def measure_and_lose_the_lease(*args, **options):
        (folder.path / "lock" / "000099").write_text("{}")
        return measure(*args, **options)

    monkeypatch.setattr(evaluation, "measure_samples", measure_and_lose_the_lease)
    failed(folder, ExitCode.BUSY, None, capsys, str(folder.path), "generation 1")
    assert {row["metric"] for row in folder.records()} == {"pair_cost", "loss"} and not (folder.path / "samples").exists()

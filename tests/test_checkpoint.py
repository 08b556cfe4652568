"""Checkpoints: complete or absent; the newest valid one wins; damage and full disks are reported and leave older ones intact."""

from __future__ import annotations

import json
import resource
from contextlib import contextmanager
from hashlib import sha256

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from train_support import difference, tiny_run, trained

from harness.errors import ConfigMismatch, DamagedFile, HarnessError
from harness.store.runs import checkpoint_steps
from harness.training import checkpoints


def state(step: int, size: int = 100) -> dict:
    return {"step": step, "loss": 0.5, "online": {"w": torch.arange(size) + float(step)}, "betas": (0.9, 0.99)}


@pytest.fixture
def folder(tmp_path):
    for step in (10, 20):
        checkpoints.save(tmp_path / "checkpoints", "run-a", step, state(step))
    return tmp_path / "checkpoints"


@contextmanager
def full_disk(limit: int):
    """The kernel refuses to let any file grow beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def newest(folder) -> tuple[int | None, list[str]]:
    warnings: list[str] = []
    state = checkpoints.load_newest(folder, "run-a", warn=warnings.append)
    return state and state["step"], warnings


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    model = trained(tiny_run("gc", steps=5))
    checkpoints.save(tmp_path, "run-a", 5, model.state())
    assert difference(checkpoints.load(tmp_path, "run-a", 5), model.state()) == []


def test_the_newest_two_and_the_kept_steps_remain(tmp_path):
    for step in range(10, 70, 10):
        checkpoints.save(tmp_path, "run-a", step, state(step), keep_steps=(20, 500))
    assert checkpoint_steps(tmp_path) == [20, 50, 60]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"step-{s:08d}{x}" for s in (20, 50, 60) for x in (".json", ".pt"))
    assert newest(tmp_path) == (60, [])


def test_no_checkpoint_yet_is_none(tmp_path):
    assert newest(tmp_path) == (None, [])


def test_an_incomplete_checkpoint_does_not_count(folder):
    """Killed between the tensors and their JSON, or while the tensors were written."""
    (folder / "step-00000030.pt").write_bytes(b"tensors")
    (folder / ".step-00000040.pt.1-ab.tmp").write_bytes(b"half")
    assert newest(folder) == (20, [])


def truncated(path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def flipped(path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def emptied(path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, flipped, emptied, lambda path: path.unlink()])
def test_a_damaged_newest_is_named_and_the_older_one_is_taken(folder, damage):
    damage(folder / "step-00000020.pt")
    step, warnings = newest(folder)
    assert step == 10
    assert len(warnings) == 1 and "step-00000020.pt" in warnings[0]


@given(st.floats(0, 1))
def test_any_flipped_bit_is_found(tmp_path_factory, place):
    folder = tmp_path_factory.mktemp("flip")
    path = checkpoints.save(folder, "run-a", 20, state(20, size=10))
    flipped(path, place)
    with pytest.raises(DamagedFile):
        checkpoints.load(folder, "run-a", 20)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'"a"', b'{"run": "run-a"}'])
def test_damaged_facts_are_named_and_the_older_one_is_taken(folder, text):
    (folder / "step-00000020.json").write_bytes(text)
    step, warnings = newest(folder)
    assert step == 10 and len(warnings) == 1 and "step-00000020" in warnings[0]


def test_when_all_are_damaged_nothing_is_trained_over_them(folder):
    for step in (10, 20):
        truncated(folder / f"step-{step:08d}.pt")
    with pytest.raises(DamagedFile) as caught:
        checkpoints.load_newest(folder, "run-a", warn=lambda text: None)
    assert "2" in caught.value.details["found"] and caught.value.details.keys() == {"where", "found", "expected", "nearest"}


def test_the_checkpoint_of_another_config_is_refused(folder):
    with pytest.raises(ConfigMismatch) as caught:
        checkpoints.load_newest(folder, "run-b")
    assert caught.value.details["found"] == "run-a" and caught.value.details["expected"] == "run-b"


def test_a_step_that_was_not_kept_is_reported_with_those_that_were(folder):
    with pytest.raises(DamagedFile) as caught:
        checkpoints.load(folder, "run-a", 15)
    assert caught.value.details["expected"].endswith("10, 20")


def test_nothing_but_tensors_and_plain_data_is_loaded(folder):
    """A file that names code is refused although its checksum agrees."""
    path = folder / "step-00000020.pt"
    torch.save({"step": 20, "evil": print}, path)
    facts = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(facts | {"sha256": sha256(path.read_bytes()).hexdigest()}))
    assert newest(folder)[0] == 10


@pytest.mark.parametrize("limit", [0, 1000, 300_000])
def test_a_full_disk_is_reported_and_leaves_the_earlier_checkpoints(folder, limit):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with full_disk(limit), pytest.raises(HarnessError) as caught:
        checkpoints.save(folder, "run-a", 30, state(30, size=200_000))
    assert "step-00000030" in str(caught.value) and "File too large" in caught.value.what  # as the kernel said it
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert newest(folder) == (20, [])
    checkpoints.save(folder, "run-a", 30, state(30, size=200_000))
    assert newest(folder) == (30, [])


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(HarnessError) as caught:
        checkpoints.save(tmp_path / "checkpoints", "run-a", 10, state(10))
    assert str(tmp_path) in str(caught.value)

"""Bad archives, full disks, kill -9: one clear message, and never an incomplete set."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from archives import celeba_folder, church_lmdb, cifar_archive, cifar_rows, imagenet_tree, jpeg, picture, python2_batch, run
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data import catalogue, datasets
from harness.data.prepare import downsampled, images, prepare, writer
from harness.data.prepare.batch_pickle import load as load_pickle
from harness.errors import DamagedFile, HarnessError, MissingFile

ROOT = Path(__file__).resolve().parent.parent

# -- bad input


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil-was-here",)


class EvilState:
    def __reduce__(self):
        return np.dtype, ("O",)


@pytest.mark.parametrize("bad", [Evil(), EvilState(), np.array([None, 1]), np.ones(2, "c8"), print, Path("x")])
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, monkeypatch, bad):
    monkeypatch.chdir(tmp_path)
    witness = tmp_path / "evil-was-here"
    batches = cifar_rows(rows=2)

    def dump(data, labels):
        return pickle.dumps({"data": data, "labels": labels, "x": bad})

    source = cifar_archive(tmp_path / "c.tar.gz", batches, dump=dump)
    with pytest.raises(DamagedFile) as error:
        run("cifar10", source, tmp_path / "data")
    assert "data_batch_1" in error.value.details["where"] and not witness.exists()
    assert not (tmp_path / "data" / "cifar10").exists()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damaged_pickle_gives_one_clear_error_or_a_dictionary(data):
    raw = bytearray(python2_batch(np.zeros((2, 12), np.uint8), [1, 2]))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(raw)))
    try:
        content = load_pickle(io.BytesIO(bytes(raw[:cut])), "here")
    except HarnessError as error:
        assert error.details["where"] == "here"
    else:
        assert all(isinstance(key, str) for key in content)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
def test_a_truncated_archive(tmp_path, share):
    source = cifar_archive(tmp_path / "c.tar.gz", cifar_rows())
    raw = source.read_bytes()
    source.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(HarnessError) as error:
        run("cifar10", source, tmp_path / "data")
    assert "c.tar.gz" in error.value.details["where"] and not (tmp_path / "data" / "cifar10").exists()


def test_an_archive_without_batches_is_not_to_be_unpacked(tmp_path):
    source = cifar_archive(tmp_path / "c.tar.gz", {})
    with pytest.raises(HarnessError) as error:
        run("cifar10", source, tmp_path / "data")
    assert "no data_batch_1" in error.value.details["found"] and "unpack" not in error.value.details["found"]


@pytest.mark.parametrize("name", catalogue.REGISTRY)
def test_a_source_that_holds_something_else(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").write_text("nothing")
    with pytest.raises(HarnessError):
        run(name, tmp_path / "in", tmp_path / "data")
    with pytest.raises(HarnessError):
        run(name, tmp_path / "in" / "readme.txt", tmp_path / "data")
    with pytest.raises(HarnessError):
        run(name, tmp_path / "absent", tmp_path / "data")
    assert not list((tmp_path / "data").glob("*")) if (tmp_path / "data").exists() else True


def test_a_damaged_image_is_named(tmp_path):
    base = imagenet_tree(tmp_path / "in")
    bad = base / "train" / "n00000001" / "n00000001_2.JPEG"
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(DamagedFile) as error:
        run("imagenet32", base, tmp_path / "data")
    assert error.value.details["where"] == str(bad)
    with pytest.raises(MissingFile, match="prepare"):
        datasets.load("imagenet32", root=tmp_path / "data")


def test_damaged_members_of_a_zip_and_an_lmdb(tmp_path):
    base = celeba_folder(tmp_path / "celeba", zipped=True)
    raw = bytearray((base / "img_align_celeba.zip").read_bytes())
    raw[len(raw) // 2] ^= 255
    (base / "img_align_celeba.zip").write_bytes(raw)
    with pytest.raises(HarnessError) as error:
        run("celeba64", base, tmp_path / "data")
    assert "img_align_celeba.zip/0000" in error.value.details["where"]
    church = church_lmdb(tmp_path / "lsun") / "church_outdoor_train_lmdb"
    intact = (church / "data.mdb").read_bytes()
    for size in (len(intact) // 2, 5000, 100, 0):  # reading beyond the end of the map would kill the process
        (church / "data.mdb").write_bytes(intact[:size])
        with pytest.raises(HarnessError) as error:
            run("church64", church, tmp_path / "data")
        assert "data.mdb" in error.value.details["where"]


@pytest.mark.parametrize("size", [(217, 178), (218, 178, 1), (64, 64)])
def test_wrong_image_size(tmp_path, size):
    base = celeba_folder(tmp_path / "celeba")
    pixels = picture(*size[:2], 0)
    (base / "img_align_celeba" / "000003.jpg").write_bytes(jpeg(pixels) if len(size) == 2 else b"")
    with pytest.raises(HarnessError) as error:
        run("celeba64", base, tmp_path / "data")
    assert error.value.details["where"].endswith("000003.jpg")
    if len(size) == 2:
        assert error.value.details["found"] == f"{size[1]}x{size[0]}" and error.value.details["expected"] == "178x218"


def test_celeba_with_a_missing_image_or_a_bad_list(tmp_path):
    base = celeba_folder(tmp_path / "celeba")
    (base / "img_align_celeba" / "000007.jpg").unlink()
    with pytest.raises(MissingFile) as error:
        run("celeba64", base, tmp_path / "data")
    assert "000007.jpg" in error.value.details["found"]
    (base / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg three\n")
    with pytest.raises(HarnessError) as error:
        run("celeba64", base, tmp_path / "data")
    assert error.value.details["where"].endswith("list_eval_partition.txt:2")


def test_official_counts_are_checked_before_the_work(tmp_path):
    seen = []
    with pytest.raises(HarnessError, match="train") as error:
        prepare("celeba64", celeba_folder(tmp_path / "celeba"), tmp_path / "data", progress=lambda *now: seen.append(now))
    assert error.value.details["expected"] == "162770" and not seen


def test_a_disk_too_small_is_reported_before_the_work(tmp_path, monkeypatch):
    seen = []
    source = cifar_archive(tmp_path / "c.tar.gz", cifar_rows())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(HarnessError, match="disk is too small"):
        prepare("cifar10", source, tmp_path / "data", official=False, progress=lambda *now: seen.append(now))
    assert not seen and not (tmp_path / "data" / "cifar10.partial").exists()


def python(code: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, **options)


def test_a_disk_that_fills_up_during_the_work(tmp_path):
    """A real failing write: the file-size limit of a child process simulates the full disk."""
    base = imagenet_tree(tmp_path / "in")
    code = f"""
        import resource
        from harness.errors import HarnessError
        from harness.data.prepare import images, prepare
        images.ROWS = 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (16000, 16000))
        try:
            prepare("imagenet32", {str(base)!r}, {str(tmp_path / "data")!r}, official=False)
        except HarnessError as error:
            print(error.what)
    """
    assert "cannot write" in python(code).stdout
    assert not (tmp_path / "data" / "imagenet32").exists()
    folder = run("imagenet32", base, tmp_path / "data")
    fresh = run("imagenet32", base, tmp_path / "fresh")
    assert (folder / "train.npy").read_bytes() == (fresh / "train.npy").read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_root(tmp_path):
    (tmp_path / "data").mkdir(mode=0o500)
    with pytest.raises(HarnessError, match="cannot write"):
        run("cifar10", cifar_archive(tmp_path / "c.tar.gz", cifar_rows()), tmp_path / "data")


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(HarnessError, match="cannot write"):
        run("cifar10", cifar_archive(tmp_path / "c.tar.gz", cifar_rows()), tmp_path / "data")


# -- interrupted and run again


def _prepare_and_die(at, moments, name, source, root):
    """In a child process: counts moments (before and after each write of the journal, sync, rename, at each progress) and dies at one."""
    images.ROWS = downsampled.ROWS = 3

    def moment(*_args):
        moments.value += 1
        if moments.value == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function):
        def wrapped(*args, **options):
            moment()
            result = function(*args, **options)
            moment()
            return result

        return wrapped

    writer.write_json, writer._write, Path.replace = counted(writer.write_json), counted(writer._write), counted(Path.replace)
    prepare(name, source, root, official=False, progress=moment)


def killed_at(at, name, source, root):
    """Exit code and number of moments of a forked preparation that kills itself with SIGKILL at moment `at` (0: never)."""
    fork = multiprocessing.get_context("fork")
    moments = fork.Value("i", 0)
    child = fork.Process(target=_prepare_and_die, args=(at, moments, name, source, root))
    child.start()
    child.join(60)
    return child.exitcode, moments.value


def contents(folder: Path):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("name", ["imagenet32", "cifar10"])
def test_killed_at_any_moment_and_run_again(tmp_path, name):
    """kill -9 before and after writes, journals and renames; an incomplete set is never valid, and the result is the same."""
    source = imagenet_tree(tmp_path / "in") if name == "imagenet32" else cifar_archive(tmp_path / "c.tar.gz", cifar_rows(rows=3))
    expected = contents(run(name, source, tmp_path / "uninterrupted"))
    done, total = killed_at(0, name, source, tmp_path / "count")
    assert done == 0 and total > 60 and contents(tmp_path / "count" / name) == expected
    for at in sorted({*range(1, total, 7), *range(total - 16, total + 1)}):
        root = tmp_path / f"killed-{at}"
        assert killed_at(at, name, source, root)[0] == -signal.SIGKILL
        if (root / name / "manifest.json").exists():
            assert datasets.verify(name, root)
        else:
            with pytest.raises(MissingFile, match="prepare"):
                datasets.load(name, root=root)
        assert contents(run(name, source, root)) == expected
        assert not (root / f"{name}.partial").exists()


def test_killed_repeatedly_it_continues_where_it_stopped(tmp_path):
    source = imagenet_tree(tmp_path / "in", classes=4, each=9)
    expected = contents(run("imagenet32", source, tmp_path / "uninterrupted"))
    rows, root = [], tmp_path / "data"
    for _ in range(20):
        if killed_at(40, "imagenet32", source, root)[0] == 0:
            break
        journal = root / "imagenet32.partial" / "journal.json"
        rows.append(sum(json.loads(journal.read_text())["rows"].values()))
    assert contents(root / "imagenet32") == expected
    assert len(rows) >= 3 and all(before < after for before, after in pairwise(rows[:3]))


def test_killed_from_outside_at_any_time(tmp_path):
    source = imagenet_tree(tmp_path / "in", classes=10, each=10)
    expected = contents(run("imagenet32", source, tmp_path / "uninterrupted"))
    code = f"from harness.data.prepare import prepare; prepare('imagenet32', {str(source)!r}, {str(tmp_path / 'data')!r}, official=False)"
    for extra in (0.0, 0.01, 0.03):
        process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and not list((tmp_path / "data").glob("*.partial/train.npy")) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(extra)
        process.kill()
        process.wait()
    assert contents(run("imagenet32", source, tmp_path / "data")) == expected


def test_a_partial_result_of_another_source_or_recipe_is_not_continued(tmp_path):
    first, second = imagenet_tree(tmp_path / "one"), imagenet_tree(tmp_path / "two", classes=2)
    killed_at(14, "imagenet32", first, tmp_path / "data")
    assert (tmp_path / "data" / "imagenet32.partial" / "journal.json").exists()
    assert contents(run("imagenet32", second, tmp_path / "data")) == contents(run("imagenet32", second, tmp_path / "fresh"))


def test_bytes_after_the_journal_are_written_again(tmp_path):
    """As after a power cut: the arrays hold more than the journal records, or less."""
    source = imagenet_tree(tmp_path / "in")
    expected = contents(run("imagenet32", source, tmp_path / "uninterrupted"))
    spoils = (lambda file: file.write_bytes(file.read_bytes() + b"\xff" * 5000), lambda file: os.truncate(file, 4000))
    for number, spoil in enumerate(spoils):
        root = tmp_path / str(number)
        killed_at(20, "imagenet32", source, root)
        spoil(root / "imagenet32.partial" / "train.npy")
        assert contents(run("imagenet32", source, root)) == expected


def test_a_prepared_set_is_kept_and_a_damaged_one_replaced(tmp_path):
    source, root = imagenet_tree(tmp_path / "in"), tmp_path / "data"
    folder = run("imagenet32", source, root)
    before, inode = contents(folder), (folder / "train.npy").stat().st_ino
    run("imagenet32", source, root)
    assert (folder / "train.npy").stat().st_ino == inode and not (root / "imagenet32.partial").exists()
    with pytest.raises(HarnessError, match="imagenet32") as error:
        run("imagenet32", source, root, recipe="adm")
    assert error.value.details["where"] == str(folder) and "shorter-bilinear" in error.value.details["found"]
    assert contents(folder) == before
    raw = bytearray(before["train.npy"])
    raw[9000] ^= 1
    (folder / "train.npy").write_bytes(raw)
    with pytest.raises(DamagedFile) as error:
        datasets.load("imagenet32", root=root)
    assert error.value.details["nearest"].startswith("harness prepare imagenet32 --from")
    run("imagenet32", source, root)
    assert contents(folder) == before


def test_two_preparations_at_once(tmp_path):
    source = imagenet_tree(tmp_path / "in")
    with writer.workspace(tmp_path / "data" / "imagenet32"), pytest.raises(HarnessError, match="another process"):
        run("imagenet32", source, tmp_path / "data")
    assert run("imagenet32", source, tmp_path / "data").is_dir()


def test_the_archive_may_be_in_the_folder_of_the_set(tmp_path):
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    source = cifar_archive(tmp_path / "data" / "cifar10" / "cifar-10-python.tar.gz", cifar_rows())
    run("cifar10", source, tmp_path / "data")
    assert source.exists() and len(datasets.load("cifar10", root=tmp_path / "data")) == 100


def test_progress_is_reported(tmp_path, capsys):
    seen = []
    source = cifar_archive(tmp_path / "c.tar.gz", cifar_rows())
    prepare("cifar10", source, tmp_path / "one", official=False, progress=lambda *now: seen.append(now))
    assert next(now for now in seen if now[0] == "train")[1] == 0 and ("train", 100) in [now[:2] for now in seen]
    prepare("cifar10", source, tmp_path / "two", official=False)
    assert "cifar10 train: 100 of 100" in capsys.readouterr().err

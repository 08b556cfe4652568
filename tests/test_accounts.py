"""Accounts without a name or a home, results of other people, and paths that no results folder can have; with real processes."""

from __future__ import annotations

import contextlib
import importlib
import io
import multiprocessing
import os
import pkgutil
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from archives import cifar_archive, cifar_rows
from archives import run as prepared
from report_support import make_results

import harness
from harness import cli
from harness.config.experiments import expand
from harness.data import prepare as prepare_module
from harness.errors import HarnessError
from harness.locations import data_root, experiments_root, project_root, results_root, user_path
from harness.store import account, fingerprint, git
from harness.store.provenance import provenance
from harness.store.runs import Store
from harness.sweep import doctor as doctor_module
from harness.sweep.site import Site, load_site

ROOT = Path(__file__).parents[1]
STRANGER = 12345
"""A user id that no machine gives to anybody."""
TOY = ["table1", "--scale", "toy", "--seeds", "1"]
SMALL = ["--set", "train.steps=10", "--set", "evaluation.every=5", "--set", "evaluation.samples=64"]
NAMES = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")


def has_entry() -> bool:
    try:
        return bool(pwd.getpwuid(STRANGER))
    except KeyError:
        return False


@pytest.fixture
def open_folder():
    """A folder that other users can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


as_stranger = pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv") or has_entry(), reason="only root can work as another user, with setpriv"
)


def stranger(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """`harness` as a user id without name and home. It may read what root has installed, and write what it owns."""
    caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    command = ["setpriv", "--reuid", str(STRANGER), "--clear-groups", *caps, sys.executable, "-m", "harness", *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | {"OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "HARNESS_EXPERIMENTS": str(ROOT / "experiments")}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=200)


@as_stranger
def test_an_account_without_name_and_home_trains(tmp_path):
    results = tmp_path / "a b"
    results.mkdir()
    results.chmod(0o777)
    run = expand("table1", "toy", (0,), [text for text in SMALL if "=" in text])[0]
    trained = stranger("run", run.id, "--experiment", *TOY, *SMALL, "--device", "cpu", "--results", str(results), cwd=results)
    assert trained.returncode == 0, trained.stderr
    folder = Store(results).folder(run.id)
    assert folder.result()["step"] == 10 and str(STRANGER) in folder.attempts()[0]["user"]


@pytest.fixture
def nobody(monkeypatch):
    """This process as an account without name and home."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


def test_identity_is_decoration(nobody, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(account.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("HARNESS_SITE", raising=False)
    assert provenance("cpu")["user"] == f"user {os.getuid()}"
    assert load_site() == Site()
    account.complete_environment()
    home = Path(os.environ["HOME"])
    assert home.parent == tmp_path and not home.stat().st_mode & 0o077 and os.environ["LOGNAME"]
    del os.environ["HOME"]
    account.complete_environment()
    assert Path(os.environ["HOME"]) == home, "all processes share the caches"


def test_a_folder_for_caches_that_others_may_write_is_not_used(nobody, tmp_path, monkeypatch):
    monkeypatch.setattr(account.tempfile, "gettempdir", lambda: str(tmp_path))
    taken = tmp_path / f"harness-home-{os.getuid()}"
    taken.mkdir()
    taken.chmod(0o777)
    account.complete_environment()
    other = Path(os.environ["HOME"])
    assert other != taken and not other.stat().st_mode & 0o077
    other.rmdir()


# --- results of others


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    make_results(root, "table1", "toy", (0,))
    return root


def closed(folder: Path) -> Path:
    """The folder, which belongs to somebody else and is for reading only."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


@as_stranger
def test_results_of_others_are_read_and_the_report_goes_elsewhere(finished, tmp_path):
    results, here = closed(Path(shutil.copytree(finished, tmp_path / "theirs"))), tmp_path / "here"
    here.mkdir()
    here.chmod(0o777)
    before = sorted(path for path in results.rglob("*"))
    elsewhere = stranger("report", *TOY, "--results", str(results), cwd=here)
    assert elsewhere.returncode == 0 and "iCT-GC" in elsewhere.stdout, elsewhere.stderr
    assert str(here / "report-output") in elsewhere.stdout.splitlines()[0] and "--output" in elsewhere.stdout.splitlines()[0]
    assert len(list(here.glob("report-output/tables/table1-toy*"))) == 3
    assert sorted(path for path in results.rglob("*")) == before


def test_a_report_goes_where_it_is_asked_to(finished, tmp_path, capsys):
    for options in ([], ["--compare", str(finished), str(finished)], ["--tensorboard"]):
        experiment = [] if options else TOY
        assert cli.main(["report", *experiment, *options, "--results", str(finished), "--output", str(tmp_path / "mine")]) == 0
        assert str(tmp_path / "mine") in capsys.readouterr().out
    assert len(list(tmp_path.glob("mine/tables/table1-toy*"))) == 3 and list(tmp_path.glob("mine/tensorboard/*"))
    assert {path.name for path in finished.iterdir()} == {"runs"}


COMMANDS = {
    "plan": ["plan", *TOY],
    "status": ["status"],
    "status of an experiment": ["status", *TOY],
    "report": ["report", *TOY, "--output", "{mine}"],
    "report without a place": ["report", *TOY],
    "why": ["why", "table1", "toy", "ic", "w2"],
    "run": ["run", "eight-gaussians-ic", "--experiment", *TOY, *SMALL, "--device", "cpu"],
    "sweep": ["sweep", *TOY, *SMALL, "--executor", "inline", "--device", "cpu"],
    "reproduce": ["reproduce", *TOY, *SMALL, "--executor", "inline", "--device", "cpu"],
    "publish": ["publish", "table1", "--scale", "toy", "--allow-uncommitted"],
    "clear": ["clear", "{run}", "--yes"],
    "verify": ["verify", "toy", "--executor", "inline", "--device", "cpu"],
    "measure": ["measure", "{run}", "--output", "{mine}"],
    "measure a study": ["measure", "why_mu", "--scale", "toy", "--output", "{mine}"],
}
READERS = {"plan", "status", "status of an experiment", "report", "why"}


def filled(arguments: list[str], results: Path, mine: Path) -> list[str]:
    run = expand("table1", "toy", (0,))[0].id
    return [*(text.format(run=run, mine=mine) for text in arguments), "--results", str(results)]


def outcomes(folder: Path, commands: dict[str, list[str]], connection) -> None:
    """In a forked process, where all modules are loaded: gives up root's rights, runs the commands in a folder, sends codes and texts."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(STRANGER, STRANGER, STRANGER)
        os.setresuid(STRANGER, STRANGER, STRANGER)
    os.chdir(folder)
    ended = {}
    for name, arguments in commands.items():
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            try:
                code: object = cli.main(arguments)
            except BaseException as error:
                code = repr(error)
        ended[name] = (code, shown.getvalue())
    connection.send(ended)


def others_may_enter(folder: Path) -> bool:
    """Whether every folder down to this one can be entered by all users, as a checkout below a private folder cannot."""
    return all(path.stat().st_mode & 0o001 for path in (folder, *folder.parents))


@pytest.mark.skipif(os.getuid() == 0 and not others_may_enter(ROOT), reason="another user cannot read this checkout")
def test_every_command_on_results_that_may_not_be_written_or_read(finished, open_folder):
    for module in pkgutil.walk_packages(harness.__path__, "harness."):  # another user may be unable to load them
        if not module.name.endswith(("__main__", ".report")):
            importlib.import_module(module.name)
    written, hidden, mine = closed(Path(shutil.copytree(finished, open_folder / "a"))), open_folder / "hidden", open_folder / "mine"
    shutil.copytree(finished, hidden)
    mine.mkdir()
    mine.chmod(0o777)
    hidden.chmod(0)
    runs_hidden = Path(shutil.copytree(finished, open_folder / "b"))
    runs_hidden.chmod(0o777)
    (runs_hidden / "runs").chmod(0)
    commands = {f"unwritable {name}": filled(arguments, written, mine) for name, arguments in COMMANDS.items()}
    commands |= {f"unreadable {name}": filled(arguments, hidden, mine) for name, arguments in COMMANDS.items()}
    commands |= {f"unreadable runs, {name}": filled(COMMANDS[name], runs_hidden, mine) for name in READERS}
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=outcomes, args=(written, commands, theirs))
    process.start()
    try:
        assert ours.poll(120)
        ended = ours.recv()
    finally:
        process.kill()
        process.join()
        hidden.chmod(0o755)
        (runs_hidden / "runs").chmod(0o755)
    for name, (code, shown) in ended.items():
        reads = name.partition(" ")[2] in READERS and name.startswith("unwritable")
        assert code == (0 if reads else 2), f"{name}: {code} {shown}"
        assert reads or any(text in shown for text in (str(hidden), str(written), str(runs_hidden), "not done")), f"{name}: {shown}"


# --- paths that no results folder can have


@pytest.fixture
def impossible(tmp_path) -> dict[str, str]:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return {
        "a file": str(tmp_path / "file"),
        "below a file": str(tmp_path / "file" / "x"),
        "a loop": str(tmp_path / "loop"),
        "too long": str(tmp_path / ("a" * 256)),
        "no such user": "~nouser/x",
        "no text": "\udcff",
        "a zero": "a\0b",
    }


def one_message(shown: str) -> None:
    """What is wrong, then its details, indented."""
    first, *rest = shown.rstrip("\n").split("\n")
    assert first and rest and all(line.startswith("  ") for line in rest) and "Traceback" not in shown
    shown.encode()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_results_folder_that_cannot_be_is_one_message(impossible, tmp_path, capsys, monkeypatch, name):
    arguments = filled(COMMANDS[name], Path("x"), tmp_path)[:-2]
    for text in impossible.values():
        assert cli.main([*arguments, "--results", text]) == 2
        shown = capsys.readouterr()
        one_message(shown.err)
        assert "--results" in shown.err
        if "\0" not in text:
            monkeypatch.setenv("HARNESS_RESULTS", text)
            assert cli.main(arguments) == 2
            shown = capsys.readouterr()
            one_message(shown.err)
            assert "HARNESS_RESULTS" in shown.err
            monkeypatch.delenv("HARNESS_RESULTS")


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "cifar10", "--from", "{}"],
        ["prepare", "cifar10", "--from", "x", "--root", "{}"],
        ["sweep", *TOY, "--executor", "slurm", "--site", "{}"],
        ["publish", "table1", "--scale", "toy", "--to", "{}"],
        ["report", *TOY, "--output", "{}"],
    ],
    ids=lambda arguments: arguments[-2],
)
def test_other_paths_that_cannot_be_are_one_message(impossible, tmp_path, capsys, arguments):
    for kind, text in impossible.items():
        if kind == "a file" and arguments[-2] in ("--from", "--site"):
            continue
        assert cli.main([word.format(text) for word in arguments]) == 2
        shown = capsys.readouterr().err
        one_message(shown)
        assert arguments[-2] in shown


def test_environment_variables_that_name_no_folder(impossible, monkeypatch):
    for variable, root in (("HARNESS_RESULTS", results_root), ("HARNESS_DATA", data_root), ("HARNESS_EXPERIMENTS", experiments_root)):
        for text in impossible.values():
            if "\0" not in text:
                monkeypatch.setenv(variable, text)
                with pytest.raises(HarnessError) as caught:
                    root()
                assert variable in caught.value.details["where"]
        monkeypatch.delenv(variable)


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/new/results", "--results") == tmp_path / "new" / "results"


@pytest.mark.skipif(os.getuid() != 0 or not others_may_enter(ROOT), reason="needs root, and a checkout that others can read")
def test_a_home_and_a_current_folder_that_may_not_be_entered(tmp_path):
    """As HOME=/root is for the user of a container, and for what sudo starts."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)

    def work() -> None:
        os.environ["HOME"] = str(closed)
        os.chdir(closed)
        os.setresgid(STRANGER, STRANGER, STRANGER)
        os.setresuid(STRANGER, STRANGER, STRANGER)
        with pytest.raises(PermissionError):
            (closed / "x").is_file()
        ours = load_site() == Site() and project_root() == ROOT
        os._exit(0 if ours else 1)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_a_current_folder_that_was_removed_is_one_message(tmp_path, capsys, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for name in ("HARNESS_RESULTS", "HARNESS_EXPERIMENTS"):
        monkeypatch.delenv(name, raising=False)
    for arguments in (["plan", *TOY], ["status", *TOY, "--results", str(tmp_path)], ["clear", "x"]):
        assert cli.main(arguments) == 2
        shown = capsys.readouterr().err
        one_message(shown)
        assert "the current folder" in shown


# --- a finished data set of others, and code without a commit


def test_a_finished_data_set_that_cannot_be_locked_is_verified_and_kept(tmp_path, monkeypatch):
    archive = cifar_archive(tmp_path / "cifar-10-python.tar.gz", cifar_rows())
    folder = prepared("cifar10", archive, tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    def locked(folder):
        raise AssertionError("nothing is locked, since nothing can be written")

    monkeypatch.setattr(prepare_module.writer, "workspace", locked)
    monkeypatch.setattr(prepare_module, "may_write", lambda folder: False)
    assert prepared("cifar10", archive, tmp_path / "data") == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_doctor_says_that_records_will_name_no_commit(monkeypatch, tmp_path):
    assert doctor_module._commit().verdict == "ok" or git.unavailable()
    monkeypatch.setattr(doctor_module, "code", lambda: {"commit": None, "dirty": None})
    monkeypatch.setattr(doctor_module, "unavailable", lambda: git.unavailable(tmp_path))
    finding = doctor_module._commit()
    assert finding.verdict == "warn" and str(tmp_path) in finding.detail and fingerprint.current() in finding.detail
    for reason, fix in (("git is not installed", "install git"), ("dubious ownership; to allow it: git config x y", "git config x y")):
        monkeypatch.setattr(doctor_module, "unavailable", lambda reason=reason: reason)
        finding = doctor_module._commit()
        assert finding.fix.startswith(f"{fix};") and fix not in finding.detail.replace("git is not installed", "")

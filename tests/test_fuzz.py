"""Generated command lines, configs, archives and run folders: each ends with exit code 0, 1 or 2 and a short, printable message.

`harness run` may also end with the code for a folder that another process seems to own. HARNESS_FUZZ sets the number of inputs, 500 by
default. The inputs are the same in every run; a failure names its kind and number, and HARNESS_FUZZ_FIRST is the first number.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import tarfile
import tomllib
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from archives import celeba_folder, cifar_archive, cifar_rows, imagenet_tree, jpeg, picture
from fuzz_inputs import changed, command_line, damaged, pair, spoil, value, word
from train_support import tiny_run

from harness import cli
from harness.config import presets
from harness.config.baselines import stored_job
from harness.config.overrides import from_dict, override
from harness.config.parts import Evaluation, Independent
from harness.errors import HarnessError
from harness.store.exit_codes import ExitCode
from harness.store.runs import RunFolder
from harness.sweep.site import load_site
from harness.training import job

CASES = int(os.environ.get("HARNESS_FUZZ", "500"))
SHARES = {"command line": 0.3, "config": 0.4, "archive": 0.1, "run folder": 0.2}
SECONDS = 60.0
"""After this time an input counts as one that hangs."""
LONGEST = 12_000
"""Characters of a message."""
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

pytestmark = pytest.mark.timeout(3600, method="thread")  # the other method needs the alarm that is used here


class Hangs(BaseException):
    """No `except Exception` catches it."""


@pytest.fixture(autouse=True)
def limited_memory() -> Iterator[None]:
    """What would read /dev/zero for ever, or unpack a bomb, gets a MemoryError after 2 GiB."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The working folder, deep in the temporary one, so that ../.. stays there; HOME and all roots lie in it."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    for name, place in (("HOME", "home"), ("HARNESS_RESULTS", "results"), ("HARNESS_DATA", "data"), ("TMPDIR", "tmp")):
        (folder / place).mkdir()
        monkeypatch.setenv(name, str(folder / place))
    for name in ("HARNESS_SITE", "HARNESS_EXPERIMENTS", "SLURM_CONF"):
        monkeypatch.delenv(name, raising=False)
    (folder / "folder").mkdir()
    (folder / "text").write_text("text\n")
    (folder / "site.toml").write_text("time = 5\n")
    (folder / "good.py").write_text("def pairs(x, z, sigma, predict):\n    return x, z\n")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    monkeypatch.chdir(folder)
    return folder


def ends_well(action: Callable[[], object]) -> str:
    """What is wrong with the way in which an action ends; "" if nothing is."""

    def hangs(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        code = action()
    except HarnessError as error:
        return shown_well(str(error))
    except SystemExit as error:  # harness COMMAND --help
        return "" if error.code == 0 else f"it exits with {error.code}"
    except Hangs:
        return f"no end after {SECONDS:g} s:\n{traceback.format_exc()[-1500:]}"
    except Exception:
        return traceback.format_exc()[-3000:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return "" if code in (0, 1, 2, ExitCode.BUSY) or not isinstance(code, int) else f"exit code {code}"


def shown_well(text: str) -> str:
    """What is wrong with a text on a terminal; "" if nothing is."""
    if "Traceback" in text:
        return f"a traceback is shown:\n{text[-2000:]}"
    if match := UNPRINTABLE.search(text):
        return f"{match[0]!r} reaches the terminal: {text[max(0, match.start() - 100) : match.end() + 20]!r}"
    return f"a message of {len(text):,} characters: {text[:300]!r}" if len(text) > LONGEST else ""


def check(kind: str, home: Path, capsys, make: Callable[[random.Random], tuple[object, Callable[[], object]]]) -> None:
    """Tries the cases of a kind. make: from a random.Random to a description of the input and the action."""
    faults = []
    first, count = int(os.environ.get("HARNESS_FUZZ_FIRST", "0")), math.ceil(CASES * SHARES[kind])
    for number in range(first, first + count):
        described, action = make(random.Random(f"{kind} {number}"))
        fault = ends_well(action)
        captured = capsys.readouterr()
        fault = fault or shown_well(captured.err) or shown_well(captured.out[:LONGEST])
        if fault:
            faults.append(f"{kind} {number}: {str(described)[:600]!r}\n{fault}")
    assert not faults, f"{len(faults)} of {count}\n\n" + "\n\n".join(faults[:8])


def test_command_lines(home, capsys):
    def make(draw):
        words = command_line(draw)
        return words, lambda: cli.main(words)

    check("command line", home, capsys, make)


def test_configs(home, capsys):
    run = presets.make("toy", "eight-gaussians", Independent(), 0)
    digits = presets.make("digits", "digits", presets.MAIN[2], 1)
    site = 'partition = "gpu"\ntime = "1:00:00"\ngpus = 2\nmemory = 8.5\nsetup = ["module load x"]\n[sbatch]\ngres = "gpu:1"\n'

    def site_file(content: bytes) -> None:
        (home / "site.toml").write_bytes(content)
        load_site("site.toml")

    def make(draw):
        match draw.randint(0, 4):
            case 0:
                pairs = [pair(draw) for _ in range(draw.randint(1, 2))]
                return pairs, lambda: override(draw.choice((run, digits)), pairs)
            case 1:
                config = changed(draw, draw.choice((run, digits)).to_dict())
                return config, lambda: stored_job(config, "digits-ic-s0-0123456789ab", where="config.json")
            case 2:
                config = value(draw) if draw.random() < 0.3 else changed(draw, run.to_dict())
                return config, lambda: from_dict(config, "config.json") if isinstance(config, dict) else None
            case 3:
                content = damaged(draw, site.encode())
                return content, lambda: site_file(content)
        values = changed(draw, tomllib.loads(site))
        text = "\n".join(f"{json.dumps(str(key))} = {json.dumps(entry)}" for key, entry in values.items())
        return text, lambda: site_file(text.encode("utf-8", "surrogatepass"))

    check("config", home, capsys, make)


@pytest.fixture
def archives(home) -> dict[str, tuple[str, Path]]:
    """Small archives by name: the data set that each is for, and its path."""
    originals = home / "archives"
    originals.mkdir()
    with zipfile.ZipFile(originals / "dataset.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"00000/img{number:08d}.png", jpeg(picture(32, 32, number), "PNG"))
        archive.writestr("dataset.json", json.dumps({"labels": [[f"00000/img{number:08d}.png", number] for number in range(3)]}))
    draws = np.random.default_rng(0)
    down = originals / "down"
    down.mkdir()
    for name in [*(f"train_data_batch_{k}" for k in range(1, 11)), "val_data"]:
        np.savez(down / f"{name}.npz", data=draws.integers(0, 256, (2, 3072), np.uint8), labels=np.array([1, 2]))
    return {
        "cifar": ("cifar10", cifar_archive(originals / "cifar-10-python.tar.gz", cifar_rows(rows=2))),
        "celeba": ("celeba64", celeba_folder(originals / "celeba", count=3, zipped=True)),
        "imagenet": ("imagenet32", imagenet_tree(originals / "tree", classes=2, each=2)),
        "zip": ("cifar10", originals / "dataset.zip"),
        "npz": ("imagenet32", down),
    }


def test_archives(home, archives, capsys):
    def make(draw):
        name = draw.choice(sorted(archives))
        data, original = archives[name]
        for folder in ("copy", "data"):
            shutil.rmtree(home / folder, ignore_errors=True)
        (home / "copy").mkdir()
        source = home / "copy" / original.name
        shutil.copytree(original, source) if original.is_dir() else shutil.copy(original, source)
        if source.is_dir():
            spoil(draw, source)
        elif draw.random() < 0.5:
            source.write_bytes(damaged(draw, source.read_bytes()))
        else:
            spoil_member(draw, source)
        words = ["prepare", data, "--from", str(source), "--root", "data", *draw.choice(([], ["--partial"], ["--partial"], ["--partial"]))]
        words += draw.choice(([], ["--skip-damaged", "1"]))
        return [name, words], lambda: cli.main(words)

    check("archive", home, capsys, make)


def spoil_member(draw: random.Random, path: Path) -> None:
    """Spoils one file inside a zip or tar archive, or its name."""
    members = dict(contents(path))
    name = draw.choice(sorted(members))
    content = members.pop(name)
    if draw.random() < 0.5:
        name = draw.choice((f"../{name}", "/etc/x", word(draw).replace("\udcff", "x") or "x", name.upper()))
    members[name] = damaged(draw, content)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        return
    with tarfile.open(path, "w:gz") as archive:
        for member, data in members.items():
            facts = tarfile.TarInfo(member)
            facts.size = len(data)
            facts.type = draw.choice((tarfile.REGTYPE,) * 9 + (tarfile.FIFOTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE))
            archive.addfile(facts, io.BytesIO(data))


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            yield from ((name, archive.read(name)) for name in archive.namelist())
        return
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            yield member.name, file.read() if file else b""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A results folder with a run of two steps."""
    root = tmp_path_factory.mktemp("finished")
    run = tiny_run(steps=2, evaluation=Evaluation(every=2, samples=8, resamplings=1, grid=2))
    folder = RunFolder.create(root, run.id, run.to_dict())
    assert job.main([str(folder.path), "--device", "cpu"]) == 0
    return root


EXPERIMENT = """
import json

from harness.config.overrides import from_dict


def runs(scale, seeds):
    return [from_dict(json.loads({config!r}))]
"""
"""An experiment whose only run is the one of `finished`, so that plans and sweeps of it look at what was spoilt."""


def test_run_folders(home, finished, monkeypatch, capsys):
    run = next((finished / "runs").iterdir()).name
    (home / "experiments").mkdir()
    config = (finished / "runs" / run / "config.json").read_text()
    (home / "experiments" / "mine.py").write_text(EXPERIMENT.format(config=config))
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(home / "experiments"))
    mine = ["mine", "--scale", "toy"]

    def make(draw):
        shutil.rmtree(home / "results", ignore_errors=True)
        shutil.copytree(finished, home / "results")
        if draw.random() < 0.3:
            (home / "results" / "runs" / run / "result.json").unlink()
        for _ in range(draw.choice((1, 1, 2))):
            spoil(draw, home / "results")
        commands = [["status"]] * 3 + [["status", *mine]] * 2 + [["plan", *mine]] * 3
        commands += [["sweep", *mine, "--executor", "inline", "--policy", draw.choice(("default", "retry-failed", "read-only"))]] * 2
        commands += [["run", run, "--device", "cpu"], ["clear", "--yes", run], ["verify", "no-such"]]
        commands += [["measure", run, "--what", "no-such"], ["publish", *mine], ["why", "mine", "toy", "ic", "w2"]]
        if draw.random() < 0.02:
            commands = [["report"]]
        words = draw.choice(commands)
        files = [str(path.relative_to(home / "results")) for path in (home / "results").rglob("*") if not path.is_file()]
        return [words, files], lambda: cli.main(words)

    check("run folder", home, capsys, make)

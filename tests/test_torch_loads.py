"""Login nodes without memory for torch: commands that need it say so before they start, the others work, and jobs are submitted."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest
from sweep_support import toy_run

from harness.cli import main
from harness.config.parts import GeneratorAugmented
from harness.config.presets import make
from harness.errors import HarnessError
from harness.store import torch_loads
from harness.store.runs import Store
from harness.sweep import doctor as doctor_module
from harness.sweep.doctor import doctor
from harness.sweep.site import Site
from harness.sweep.slurm_command import srun
from harness.sweep.slurm_submit import Array, parameters

LIMIT = 3 << 29
"""Bytes of address space, 1.5 GiB: enough for Python, pandas and matplotlib, too little for torch."""
TOY = ("table1", "--scale", "toy", "--seeds", "1")
WITH_TORCH = {
    "doctor": ("doctor", *TOY),
    "sweep": ("sweep", *TOY, "--executor", "local"),
    "inline": ("sweep", *TOY, "--executor", "inline"),
    "run": ("run", "eight-gaussians-ic-s0", "--experiment", *TOY),
    "measure a study": ("measure", "figure1"),
    "measure a run": ("measure", "eight-gaussians-ic-s0"),
}


@pytest.fixture
def no_torch(monkeypatch):
    """A process with a limit on its memory, in which torch cannot be loaded."""
    monkeypatch.setattr(torch_loads, "limit_of_memory", lambda: 1.5)
    monkeypatch.setattr(torch_loads, "answer_of", lambda *arguments: ("a\n  what():  std::bad_alloc\n", -6))
    torch_loads.torch_fault.cache_clear()
    yield
    torch_loads.torch_fault.cache_clear()


def test_commands_under_a_limit_on_memory(tmp_path):
    """Real processes, all at once. Without the check, torch ends some of them with SIGABRT."""
    pipe, environment = subprocess.PIPE, {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))

    commands = {"doctor": WITH_TORCH["doctor"], "sweep": WITH_TORCH["sweep"], "plan": ("plan", *TOY)}
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", "harness", *arguments, "--results", str(tmp_path / "results")],
            stdout=pipe, stderr=pipe, text=True, env=environment, preexec_fn=limited,
        )
        for name, arguments in commands.items()
    }  # fmt: skip
    for name, process in started.items():
        output, errors = process.communicate(timeout=200)
        assert "Traceback" not in errors and process.returncode == (0 if name == "plan" else 2), f"{name}: {output}{errors}"
        if name != "plan":
            shown = output if name == "doctor" else errors
            assert "cannot be loaded here" in shown and "1.5 GiB" in shown and "srun" in shown, f"{name}: {shown}"
    assert not list((tmp_path / "results").glob("runs/*/attempts.jsonl"))


@pytest.mark.parametrize("name", WITH_TORCH)
def test_every_command_that_computes_says_it_before_it_starts(no_torch, tmp_path, capsys, name):
    assert main([*WITH_TORCH[name], "--results", str(tmp_path / "results")]) == 2
    shown = capsys.readouterr()
    assert "std::bad_alloc" in shown.out + shown.err and not list((tmp_path / "results").glob("runs/*/attempts.jsonl"))


def test_the_benchmark_says_it_before_it_starts(no_torch, capsys):
    assert main(["bench", "--quick"]) == 2
    assert "std::bad_alloc" in capsys.readouterr().err


ANSWERS = [(("", 0), ""), (("x\nImportError: no\n", 1), "ImportError: no"), (("", -9), "code -9"), (("", None), "not loaded within")]


@pytest.mark.parametrize("answer, fault", ANSWERS)
def test_why_torch_cannot_be_loaded_is_asked_once(no_torch, monkeypatch, answer, fault):
    asked = []
    monkeypatch.setattr(torch_loads, "answer_of", lambda *arguments: asked.append(arguments) or answer)
    for _ in range(2):
        assert fault in torch_loads.torch_fault() if fault else torch_loads.torch_fault() == ""
    assert len(asked) == 1


def test_it_is_asked_only_where_memory_is_limited(no_torch, monkeypatch):
    with pytest.raises(HarnessError) as error:
        torch_loads.check_torch()
    assert "std::bad_alloc" in error.value.details["found"] and "1.5 GiB" in error.value.details["found"]
    monkeypatch.setattr(torch_loads, "limit_of_memory", lambda: None)
    monkeypatch.setattr(torch_loads, "memory_gib", lambda: 8.0)
    torch_loads.check_torch()
    monkeypatch.setattr(torch_loads, "memory_gib", lambda: 0.5)
    with pytest.raises(HarnessError):
        torch_loads.check_torch()


def test_doctor_checks_what_needs_no_torch(no_torch, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    found = {finding.what: finding for finding in doctor([make("paper", "cifar10", GeneratorAugmented(mu=0.5), 0)], Store(tmp_path))}
    assert found["torch"].verdict == "cannot work here" and "std::bad_alloc" in found["torch"].detail and "srun" in found["torch"].fix
    assert found["data set cifar10"].verdict == "missing" and found["data set cifar10"].fix.startswith("harness prepare cifar10")
    assert found["Inception weights"].verdict == "missing" and found["disk"].verdict == "ok"
    monkeypatch.setattr(doctor_module, "slurm_answers", lambda: True)
    found = {finding.what: finding for finding in doctor([toy_run(0)], Store(tmp_path), "slurm")}
    assert found["torch"].verdict == "warn" and not any("data set" in name for name in found), "jobs run elsewhere"


def test_a_coupling_is_not_blamed_for_a_torch_that_cannot_be_loaded(no_torch, tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.py"
    path.write_text("def same(x, z, sigma, predict):\n    return x, z\n")
    fails = subprocess.CompletedProcess([], 1, "", "ImportError: libtorch_cpu.so")
    monkeypatch.setattr("harness.commands.sweeps.subprocess.run", lambda *arguments, **options: fails)
    options = ["--coupling", f"{path}:same", "--results", str(tmp_path / "results"), "--executor", "local"]
    assert main(["sweep", *TOY, *options]) == 2
    shown = capsys.readouterr().err
    assert "the coupling is not tried" in shown and "torch cannot be loaded here" in shown and "cannot be used" not in shown
    monkeypatch.setattr(torch_loads, "limit_of_memory", lambda: None)
    monkeypatch.setattr(torch_loads, "memory_gib", lambda: 8.0)
    assert main(["sweep", *TOY, *options]) == 2 and "the coupling cannot be used" in capsys.readouterr().err


def test_jobs_get_their_own_limits_unless_the_site_says_otherwise(no_torch, monkeypatch):
    def of(**sbatch):
        return parameters(Site(sbatch=sbatch), Array((), 1, ()))["additional_parameters"].get("propagate")

    monkeypatch.setattr("harness.sweep.site.limit_of_memory", lambda: 1.5)
    assert of() == "NONE" and of(propagate="CORE") == "CORE" and "--propagate=NONE" in srun(Site(), "name", ["measure"])
    monkeypatch.setattr("harness.sweep.site.limit_of_memory", lambda: None)
    assert of() is None and not any("propagate" in word for word in srun(Site(), "name", ["measure"]))

"""torch.compile where it does not work: found before training, said by doctor, and the run is trained without."""

from __future__ import annotations

import json

import pytest
from sweep_support import toy_run

from harness.config.parts import Training
from harness.store.runs import RunFolder, Store
from harness.sweep import doctor as doctor_module
from harness.training import compilation
from harness.training.compilation import VARIABLE, compile_fault
from harness.training.job import run_job

COMPILED = Training(steps=4, batch=8, lr=1e-3, compile=True)


@pytest.fixture
def no_compiler(tmp_path, monkeypatch):
    """A machine without a C++ compiler: an empty PATH."""
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "")


@pytest.mark.slow
def test_without_a_compiler_the_run_is_trained_without_and_says_so(tmp_path, no_compiler, monkeypatch, capfd):
    fault = compile_fault("cpu")
    assert "ompiler" in fault
    monkeypatch.setattr(compilation, "answer_of", None)  # asked once: neither doctor nor the job asks again
    compiled = toy_run(0, train=COMPILED)
    plain = toy_run(0, train=COMPILED.model_copy(update={"compile": False}))
    finding = next(doctor_module._compiler([compiled]))
    assert finding.verdict == "warn" and fault in finding.detail and "g++" in finding.fix and not list(doctor_module._compiler([plain]))
    folders = [RunFolder.create(tmp_path / "results", run.id, run.to_dict()) for run in (compiled, plain)]
    assert [run_job(folder.path, "cpu") for folder in folders] == [0, 0]
    attempts = [folder.attempts()[0] for folder in folders]
    assert attempts[0]["compiled"] is False and attempts[0]["not_compiled"] == fault and "compiled" not in attempts[1]
    assert capfd.readouterr().out.count(fault) == 1
    values = [[(row["step"], row["metric"], row["value"]) for row in folder.records()] for folder in folders]
    assert values[0] == values[1] and compiled.id != plain.id


@pytest.mark.parametrize(
    "answer, fault", [(("", 0), ""), (("a\nno g++\n", 1), "no g++"), (("", 9), "9"), (("", None), "not compiled within")]
)
def test_what_the_process_says(monkeypatch, answer, fault):
    asked = []
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(compilation, "answer_of", lambda *arguments: asked.append(arguments) or answer)
    for _ in range(2):
        assert (fault in compile_fault("cpu")) if fault else compile_fault("cpu") == ""
    assert len(asked) == 1
    compile_fault("cuda")
    assert len(asked) == 2, "another device is another question"


def test_a_damaged_answer_is_asked_for_again(monkeypatch):
    monkeypatch.setattr(compilation, "answer_of", lambda *_: ("", 0))
    for text in ("x", "[]", json.dumps({"of": 1}), "null"):
        monkeypatch.setenv(VARIABLE, text)
        assert compile_fault("cpu") == ""


def test_the_launcher_asks_for_runs_that_are_compiled(tmp_path, monkeypatch):
    from harness.sweep import local
    from harness.sweep.launch import LaunchOptions
    from harness.sweep.plan import make_plan

    class Asked(Exception):
        pass

    def ask(device: str) -> str:
        raise Asked(device)

    monkeypatch.setattr(local, "compile_fault", ask)
    store = Store(tmp_path)
    with pytest.raises(Asked, match="cpu"):
        local.LocalLauncher(make_plan([toy_run(0, train=COMPILED)], store), store, LaunchOptions(device="cpu"), None, None)

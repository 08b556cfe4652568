"""GPUs: what torch says of them in a process of its own, what the device becomes, and who shares the answer. A torch of this test's own is
asked, since it can be old, hang, or lack a GPU's architecture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweep_support import ROOT

from harness.errors import HarnessError
from harness.store import gpus, machine
from harness.store.gpus import VARIABLE, Gpu, Gpus, environment_of, find_gpus, known_gpus
from harness.store.machine import choose_device, device_kind
from harness.sweep.local import unused_gpu
from harness.training.devices import torch_device
from harness.training.gpu_question import supported

TORCH = """
import os, time
calls = os.environ["TORCH_CALLS"]
open(calls, "a").write("asked\\n")
case = os.environ["TORCH_CASE"]
__version__ = "9.9"
class version:
    cuda = None if case == "cpu build" else "13.0"
class Tensor:
    def sum(self): return self
    def item(self): return 2.0
def ones(size, device):
    if case == "busy" and device == "cuda:0":
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")
    if case == "broken":
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
    return Tensor()
class backends:
    class mps:
        @staticmethod
        def is_available(): return False
class Properties:
    def __init__(self, number):
        self.name, self.total_memory = f"GPU {number}", (number + 1) * 2**30
class cuda:
    @staticmethod
    def init():
        if case == "hang":
            time.sleep(60)
        if case == "old driver":
            raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")
    device_count = staticmethod(lambda: 0 if case == "none" else 2)
    get_device_capability = staticmethod(lambda number: (7, 0) if case == "V100" or (case == "mixed" and number == 0) else (9, 0))
    get_device_properties = Properties
    get_arch_list = staticmethod(lambda: ["sm_75", "sm_80", "sm_90", "compute_120"])
"""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A machine with the device file of a GPU and this test's torch. Call it with a case; asked.calls counts the questions."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(TORCH)
    calls = tmp_path / "calls"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TORCH_CALLS", str(calls))
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "device_files", lambda: ["nvidia0"])

    class Asked:
        calls = property(lambda self: len(calls.read_text().split()) if calls.exists() else 0)

        def __call__(self, case: str) -> Gpus:
            monkeypatch.setenv("TORCH_CASE", case)
            return find_gpus()

    return Asked()


def test_usable_gpus_are_asked_for_once_and_the_answer_is_shared(asked, monkeypatch):
    here = asked("two")
    assert [(gpu.name, gpu.memory, gpu.visible) for gpu in here.usable] == [("GPU 0", 2**30, "0"), ("GPU 1", 2 * 2**30, "1")]
    assert here.why_not == "" and choose_device("auto", ["paper"]) == choose_device("cuda") == "cuda"
    assert find_gpus() == here == known_gpus() and asked.calls == 1
    for name, value in environment_of(here.usable[1]).items():
        monkeypatch.setenv(name, value)
    assert [gpu.name for gpu in find_gpus().usable] == ["GPU 1"] and asked.calls == 1, "what the launcher gives to a job"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    assert [gpu.visible for gpu in find_gpus().usable] == ["GPU-a", "GPU-b"] and asked.calls == 2, "other GPUs are another question"


@pytest.mark.parametrize(
    "case, why, fix",
    [
        ("V100", "7.0", "build of torch"),
        ("old driver", "too old (found version 11040)", "driver"),
        ("broken", "no kernel image", "build of torch"),
        ("cpu build", "CPU", "CUDA"),
        ("none", "no GPU", "nvidia-smi"),
    ],
)
def test_a_gpu_that_torch_cannot_use(asked, case, why, fix):
    here = asked(case)
    assert not here.usable and why in here.why_not and fix in here.how_to_fix
    assert choose_device("auto", ["toy", "digits"]) == "cpu" and device_kind() == machine.cpu_name()
    for wish, scales in (("cuda", ()), ("auto", ("paper",)), ("auto", ("toy", "fashion"))):
        with pytest.raises(HarnessError) as error:
            choose_device(wish, scales)
        assert why in error.value.details["found"] and fix in error.value.details["nearest"]
    assert choose_device("cpu", ["paper"]) == "cpu" and asked.calls == 1


def test_of_different_gpus_those_that_work_are_used(asked):
    here = asked("mixed")
    assert [gpu.visible for gpu in here.usable] == ["1"] and here.why_not == "" and "7.0" in here.devices[0].reason
    assert str(torch_device("auto")) == "cuda:1"


def test_each_of_several_processes_tries_its_own_gpu_only(asked, monkeypatch):
    """In exclusive mode a GPU is busy while another process uses it."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert len(asked("busy").usable) == 2
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setenv("LOCAL_RANK", "0")
    here = find_gpus()
    assert [gpu.visible for gpu in here.usable] == ["1"] and "busy" in here.devices[0].reason and "nvidia-smi" in here.devices[0].fix


def test_a_driver_that_hangs_costs_the_time_limit_once(asked, monkeypatch):
    monkeypatch.setattr(gpus, "PATIENCE", 1.0)
    began = time.monotonic()
    assert "did not answer" in asked("hang").why_not and choose_device("auto") == "cpu"
    assert time.monotonic() - began < 10 and asked.calls == 1


def test_a_torch_that_cannot_be_imported_is_a_reason(asked, tmp_path):
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    assert "libcudart" in asked("two").why_not


@pytest.mark.parametrize("visible, files", [("", ["nvidia0"]), ("-1", ["nvidia0"]), (None, [])])
def test_without_a_gpu_nobody_is_asked(asked, monkeypatch, visible, files):
    monkeypatch.setattr(gpus, "device_files", lambda: files)
    monkeypatch.setattr(machine, "device_files", lambda: files)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert asked("two") == Gpus() and device_kind() == machine.cpu_name() and asked.calls == 0
    with pytest.raises(HarnessError) as error:
        choose_device("auto", ["paper"])
    assert "--device cpu" in error.value.details["nearest"]


@pytest.mark.parametrize("text", ["x", "{}", '{"of": 1}', "[]", "null", '{"of": null, "devices": 3}'])
def test_a_damaged_answer_is_none(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    assert known_gpus() is None


def test_an_answer_of_another_machine_is_none(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv(VARIABLE, gpus.as_variable(Gpus((Gpu("A", 1, "9.0", "0"),)), None)[VARIABLE])
    assert known_gpus() == Gpus((Gpu("A", 1, "9.0", "0"),))
    monkeypatch.setattr(gpus.platform, "node", lambda: "another")
    assert known_gpus() is None


@pytest.mark.parametrize(
    "capability, built, answer",
    [
        ((7, 0), ["sm_75", "sm_90"], False),
        ((7, 0), ["sm_70"], True),
        ((8, 9), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((12, 0), ["sm_90a", "sm_120"], True),
        ((10, 3), ["sm_90"], False),
        ((9, 4), ["gfx942"], True),
        ((9, 0), [], True),
    ],
)
def test_architectures(capability, built, answer):
    assert supported(capability, built) is answer


def test_mps_is_refused_with_the_reason():
    with pytest.raises(HarnessError) as error:
        choose_device("mps")
    assert "float64" in error.value.details["found"] and error.value.details["nearest"] == "cpu"


def test_the_launcher_says_why_a_gpu_is_not_used(asked):
    asked("V100")
    assert "7.0" in unused_gpu("auto", "cpu") and unused_gpu("cpu", "cpu") == ""


@pytest.mark.parametrize(
    "name, is_gpu",
    [("nvidia0", True), ("nvidia15", True), ("dxg", True), ("kfd", True), ("nvidiactl", False), ("nvidia-uvm", False), ("null", False)],
)
def test_the_device_files_of_gpus(name, is_gpu):
    """dxg is how WSL2 shows a GPU; nvidiactl and nvidia-uvm belong to the driver, which may be there without a GPU."""
    assert bool(gpus._FILE.fullmatch(name)) == is_gpu


def test_plan_and_status_start_no_process_and_load_no_torch(tmp_path):
    """On a machine without the device file of a GPU, as this one or one whose GPUs are hidden."""
    code = f"""
import subprocess, sys
from harness import cli
from harness.store import gpus
def no(*_, **__): raise SystemExit("asked")
gpus.answer_of = no
gpus.device_files = lambda: []
assert cli.main(["plan", "table1", "--scale", "paper", "--results", {str(tmp_path)!r}]) == 0
assert cli.main(["status", "--results", {str(tmp_path)!r}]) == 0
raise SystemExit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={**os.environ, VARIABLE: ""})
    assert done.returncode == 0, done.stderr


def test_the_real_torch_is_asked_by_the_file(tmp_path):
    """Whatever is here: one JSON object, either with devices or with a reason."""
    path = Path(gpus.PACKAGE) / "training" / "gpu_question.py"
    text, code = gpus.answer_of([str(path)], os.environ, 120.0)
    answer = json.loads(text)
    assert code == 0 and (answer.get("devices") or (answer["reason"] and answer["fix"]))

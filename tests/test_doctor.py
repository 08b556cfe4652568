"""The doctor: what is present, what is missing, how to fix it."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest
from rich.console import Console
from sweep_support import toy_run

from harness.config import presets
from harness.config.experiments import expand
from harness.config.parts import Independent, Init
from harness.metrics import inception
from harness.store.gpus import Gpu, Gpus
from harness.store.runs import Store
from harness.sweep import doctor as doctor_module
from harness.sweep import executors
from harness.sweep.doctor import absent, doctor, print_findings
from harness.sweep.network_size import network_size


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(doctor_module, "slurm_answers", lambda: False)
    monkeypatch.setattr(executors, "slurm_answers", lambda: False)
    monkeypatch.setattr(doctor_module, "find_gpus", Gpus)
    return Store(tmp_path / "results")


def by_name(checks) -> dict:
    return {check.what: check for check in checks}


def test_a_toy_sweep_lacks_nothing(store):
    console = Console(file=io.StringIO(), width=200)
    checks = doctor([toy_run(0)], store)
    assert print_findings(checks, console) == 0 and "nothing is missing" in console.file.getvalue()
    rows = by_name(checks)
    assert "4,096 train" in rows["data set two-moons"].detail and rows["write access"].verdict == "ok" and rows["disk"].verdict == "ok"
    assert rows["memory"].verdict == "ok" and "GiB free" in rows["memory"].detail and list(store.runs.iterdir()) == []


def test_the_paper_scale_lacks_data_weights_and_a_device(store):
    runs = [presets.make("paper", name, Independent(), 0) for name in ("cifar10", "celeba64")]
    console = Console(file=io.StringIO(), width=300)
    checks = doctor(runs, store)
    assert print_findings(checks, console) == 2
    rows = by_name(checks)
    for what, fix in (
        ("data set cifar10", "harness prepare cifar10 --from"),
        ("data set celeba64", "harness prepare celeba64"),
        ("Inception weights", "inception"),
    ):
        assert rows[what].verdict == "missing" and fix in rows[what].fix and fix in console.file.getvalue()
    assert rows["device"].verdict == "cannot work here" and "--device cpu" in rows["device"].fix and "no GPU" in rows["device"].detail
    assert rows["memory"].verdict == "warn" and "GPU with about 3" in rows["memory"].detail and "--micro-batch" in rows["memory"].fix
    assert "3 missing, 1 cannot work here" in console.file.getvalue()
    assert absent(runs) == ["cifar10 is not prepared", "celeba64 is not prepared", "no Inception weights"]
    assert absent([toy_run(0)]) == []


def test_weights_are_named_with_sha256_size_and_place(store, monkeypatch):
    run = presets.make("paper", "cifar10", Independent(), 0)
    path = Path(os.environ["HARNESS_DATA"]) / "weights" / "inception-2015-12-05.pt"
    check = by_name(doctor([run], store))["Inception weights"]
    assert str(path) in check.detail and "96 MB" in check.detail and inception.SHA256 in check.detail
    assert "python -m harness.metrics.inception" in check.fix and inception.URL in check.fix
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    check = by_name(doctor([run], store))["Inception weights"]
    assert check.verdict == "missing" and "damaged or another file" in check.detail and f"rm {path}" in check.fix
    monkeypatch.setattr(inception.weights_status, "__defaults__", (None, hashlib.sha256(b"x").hexdigest()))
    assert by_name(doctor([run], store))["Inception weights"].verdict == "ok"


def test_a_damaged_data_set_is_found_and_the_command_that_fixes_it_named(store, tmp_path):
    """A prepared set of which a byte has changed."""
    folder = Path(os.environ["HARNESS_DATA"]) / "cifar10"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    check = by_name(doctor([presets.make("paper", "cifar10", Independent(), 0)], store))["data set cifar10"]
    assert check.verdict == "missing" and str(folder) in check.detail and "harness prepare cifar10 --from" in check.fix


def test_the_site_file_is_checked_where_slurm_answers(store, tmp_path, monkeypatch):
    run = presets.make("paper", "cifar10", Independent(), 0)
    monkeypatch.delenv("HARNESS_SITE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert "site file" not in by_name(doctor([run], store))
    monkeypatch.setattr(doctor_module, "slurm_answers", lambda: True)
    monkeypatch.setattr(executors, "slurm_answers", lambda: True)
    check = by_name(doctor([run], store))["site file"]
    assert check.verdict == "missing" and "no GPU" in check.detail and "gpus = 1" in check.fix
    (tmp_path / "site.toml").write_text('partition = "gpu"\ngpus = 4\n')
    assert "partition gpu" in by_name(doctor([run], store))["site file"].detail
    (tmp_path / "bad.toml").write_text("gpu = 4\n")
    check = by_name(doctor([run], store, "slurm", site=str(tmp_path / "bad.toml")))["site file"]
    assert check.verdict == "missing" and "unknown key" in check.detail and check.fix == "gpus"


def test_the_disk_must_hold_the_checkpoints(store, monkeypatch):
    """Three checkpoints of weights, EMA and Lion's moment in float32: 3 x 12 bytes a parameter."""
    run = presets.make("paper", "cifar10", Independent(), 0)
    count = 34_711_811
    sizes = doctor_module._sizes([run])
    assert sizes == {run.id: count * 12}
    usage = doctor_module.shutil.disk_usage(store.root.parent)
    monkeypatch.setattr(doctor_module.shutil, "disk_usage", lambda _: usage._replace(free=count * 36 - 1))
    check = doctor_module._disk([run], store, sizes)
    assert check.verdict == "missing" and "GiB needed" in check.detail
    monkeypatch.setattr(doctor_module.shutil, "disk_usage", lambda _: usage._replace(free=count * 36 + 2**21))
    assert doctor_module._disk([run], store, sizes).verdict == "ok"


def test_versions_are_compared_with_the_lock(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("# made by a tool\nnumpy==0.0.1\nno-such-package==1.0\ncolorama==9 ; sys_platform == 'win32'\n")
    (check,) = doctor_module._versions(lock)
    assert check.verdict == "warn" and "numpy" in check.detail and "no-such-package none" in check.detail and "colorama" not in check.detail
    import numpy

    lock.write_text(f"numpy=={numpy.__version__}\n")
    assert [check.verdict for check in doctor_module._versions(lock)] == ["ok"]


def test_an_installed_wheel_is_compared_with_what_it_requires(tmp_path, monkeypatch):
    (check,) = doctor_module._versions(tmp_path / "none")
    assert check.verdict == "ok" and "requirements.lock" not in check.detail
    monkeypatch.setattr(doctor_module.metadata, "requires", lambda _: ["numpy>=99", "no-such-package>=1; extra == 'dev'"])
    (check,) = doctor_module._versions(tmp_path / "none")
    assert check.verdict == "missing" and "numpy" in check.detail and "no-such-package" not in check.detail and "make" not in check.fix


def test_a_file_where_the_folder_should_be_is_missing_write_access(tmp_path):
    (tmp_path / "results").write_text("")
    check = doctor_module._write_access(Store(tmp_path / "results"))
    assert check.verdict == "missing" and "--results" in check.fix


def test_scheduler_and_starting_weights(store, monkeypatch):
    runs = [toy_run(0), toy_run(0, init=Init(kind="edm", ref="edm.pkl"))]
    rows = by_name(doctor(runs, store, executor="slurm"))
    assert rows["scheduler"].verdict == "missing"
    weights = Path(os.environ["HARNESS_DATA"]) / "weights" / "edm.pkl"
    check = rows["EDM weights edm.pkl"]
    assert check.verdict == "missing" and str(weights) in check.detail and f"curl --create-dirs -o {weights} https://" in check.fix
    assert absent(runs) == ["no EDM weights edm.pkl"]
    weights.parent.mkdir(parents=True)
    content = b"x" * 2 * network_size(runs[1]).parameters
    weights.write_bytes(content)
    check = by_name(doctor(runs, store))["EDM weights edm.pkl"]
    assert check.verdict == "ok" and f"sha256 {hashlib.sha256(content).hexdigest()}" in check.detail and absent(runs) == []
    check = by_name(doctor(runs, store, full=True))["EDM weights edm.pkl"]
    assert check.verdict == "missing" and "damaged or of another format" in check.detail and f"rm {weights}" in check.fix
    monkeypatch.setattr(doctor_module, "slurm_answers", lambda: True)
    assert by_name(doctor(runs, store, executor="slurm"))["scheduler"].verdict == "ok"


def test_the_weights_of_edm2_are_found_missing_with_the_place_and_the_source(store):
    """Of Table 2's four ImageNet-64 runs, one row."""
    runs = [run for run in expand("table2", "paper") if run.data.name == "imagenet64"]
    checks = [check for check in doctor_module._weights(runs, full=False) if check.what.startswith("EDM weights")]
    name = "edm2-img64-s-1073741-0.075.pkl"
    path = Path(os.environ["HARNESS_DATA"]) / "weights" / name
    assert [check.what for check in checks] == [f"EDM weights {name}"] and checks[0].verdict == "missing"
    assert f"no file {path}" in checks[0].detail
    assert checks[0].fix == f"curl --create-dirs -o {path} https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions/{name}"
    assert f"no EDM weights {name}" in absent(runs)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 1000)
    (check,) = (check for check in doctor_module._weights(runs, full=False) if check.what.startswith("EDM weights"))
    assert check.verdict == "missing" and "incomplete, or a smaller network than 280,209,253 weights" in check.detail
    assert check.fix.startswith(f"rm {path}; curl")


V100 = Gpu("V100", 16 * 2**30, "7.0", "0", reason="its compute capability 7.0 is not one of this torch", fix="another build of torch")


def test_a_gpu_that_torch_cannot_use_is_named_with_the_reason(store, monkeypatch):
    runs = [presets.make("paper", "cifar10", Independent(), 0)]
    monkeypatch.setattr(doctor_module, "find_gpus", lambda: Gpus((V100,)))
    check = by_name(doctor(runs, store))["device"]
    assert check.verdict == "cannot work here" and "7.0" in check.detail and "another build" in check.fix
    assert by_name(doctor([toy_run(0)], store))["device"].verdict == "warn", "the toy scale runs on the processor"
    monkeypatch.setattr(doctor_module, "find_gpus", lambda: Gpus((V100, Gpu("H100", 80 * 2**30, "9.0", "1"))))
    check = by_name(doctor(runs, store))["device"]
    assert check.verdict == "ok" and "1 x H100, 80 GiB" in check.detail and "V100" in check.detail

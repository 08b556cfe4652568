"""Memory at planning: what cannot fit is refused with the key to change, what may not fit is a sentence with the rows that do."""

from __future__ import annotations

import pytest
from sweep_support import toy_run

from harness.cli import main
from harness.config import presets
from harness.config.parts import BatchOT, GeneratorAugmented, Independent
from harness.config.run import varied
from harness.errors import HarnessError
from harness.store.gpus import Gpu, Gpus
from harness.sweep import memory
from harness.sweep.memory import GIB, Capacity, capacity_of, check_memory, need

CIFAR = presets.make("paper", "cifar10", Independent(), 0)
LARGE = Capacity(1000 * GIB, 80 * GIB, uses_gpu=True)


def test_the_constant_part_is_that_of_the_optimizer():
    """Weights, EMA, gradients, one update and Lion's moment, in float32; Adam has a second moment. The images are bytes."""
    count = 34_711_811
    assert need(CIFAR).fixed == {"network.base_channels": 20 * count, "data.limit": 50_000 * 3072}
    assert need(varied(CIFAR, train={"optimizer": "adam"})).fixed["network.base_channels"] == 24 * count
    assert need(varied(CIFAR, data={"limit": 100})).fixed["data.limit"] == 100 * 3072
    assert "data.limit" not in need(CIFAR, uses_gpu=False).fixed


def test_assignments_count_the_rows_that_are_assigned_together():
    per_row = {
        BatchOT(): ("train.batch", 128),
        BatchOT(scope="global"): ("train.batch", 512),
        BatchOT(scope="global", size=1024): ("coupling.size", 1024),
        GeneratorAugmented(variant="batch-ot"): ("train.batch", 128),
    }
    for coupling, (key, rows) in per_row.items():
        assert need(CIFAR.model_copy(update={"coupling": coupling}), processes=4).host[key] == memory.PER_PAIR * rows**2
    assert "train.batch" not in need(CIFAR).host
    assert need(toy_run()).host == {"evaluation.samples": memory.PER_PAIR * 16**2}, "the exact W2 of the samples"


def test_the_preset_fits_a_large_gpu_and_is_warned_of_on_a_small_one(monkeypatch):
    monkeypatch.delenv("HARNESS_MICRO_BATCH", raising=False)
    assert check_memory([CIFAR], LARGE) == "" == check_memory([CIFAR], Capacity(None, None, uses_gpu=True))
    text = check_memory([CIFAR, CIFAR.model_copy(update={"seed": 1})], Capacity(1000 * GIB, 16 * GIB, uses_gpu=True))
    rows = int(text.partition("--micro-batch ")[2].split()[0])
    assert 32 <= rows < 512 and rows & (rows - 1) == 0 and "16.0 GiB" in text and CIFAR.slug in text
    monkeypatch.setenv("HARNESS_MICRO_BATCH", str(rows))
    assert check_memory([CIFAR], Capacity(1000 * GIB, 16 * GIB, uses_gpu=True)) == "", "what it names fits"


@pytest.mark.parametrize(
    "run, capacity, key",
    [
        (varied(CIFAR, network={"base_channels": 8192}), LARGE, "network.base_channels"),
        (CIFAR, Capacity(1000 * GIB, 0.75 * GIB, uses_gpu=True), "network.base_channels"),
        (toy_run(network={"kind": "mlp", "width": 60_000, "dropout": (0.0,)}), Capacity(16 * GIB), "network.width"),
        (CIFAR.model_copy(update={"coupling": BatchOT(scope="global", size=51_200)}), Capacity(16 * GIB, 80 * GIB, True), "coupling.size"),
        (toy_run(evaluation={"every": 10, "samples": 10**6}), Capacity(64 * GIB), "evaluation.samples"),
        (presets.make("paper", "imagenet32", Independent(), 0), Capacity(64 * GIB, 4 * GIB, True), "data.limit"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_key_to_change(run, capacity, key):
    with pytest.raises(HarnessError) as error:
        check_memory([toy_run(), run], capacity)
    assert error.value.details["where"] == key and key in error.value.details["nearest"] and "GiB" in error.value.details["found"]


def test_nothing_is_refused_where_nothing_is_known():
    assert check_memory([varied(CIFAR, network={"base_channels": 8192})], Capacity(None)) == ""


def test_several_kinds_of_run_are_one_sentence_whose_rows_fit_all(monkeypatch):
    monkeypatch.delenv("HARNESS_MICRO_BATCH", raising=False)
    small = Capacity(1000 * GIB, 12 * GIB, uses_gpu=True)
    runs = [presets.make("paper", name, Independent(), 0) for name in ("celeba64", "cifar10")]
    text = check_memory(runs, small)
    assert runs[1].slug in text and "1 further" in text
    monkeypatch.setenv("HARNESS_MICRO_BATCH", text.partition("--micro-batch ")[2].split()[0])
    assert check_memory(runs, small) == ""


def test_runs_that_need_a_gpu_are_not_measured_against_the_host():
    toy, host, gpu = toy_run(), Capacity(GIB), Capacity(GIB, GIB, uses_gpu=True)
    assert memory.runnable([CIFAR, toy], host) == [toy] and memory.runnable([CIFAR, toy], gpu) == [CIFAR, toy]
    assert memory.runnable([CIFAR, toy], host, "cpu") == [CIFAR, toy]


def test_the_capacity_is_that_of_the_smallest_gpu_that_works_or_of_the_site(tmp_path, monkeypatch):
    two = Gpus((Gpu("A", 80 * GIB, "9.0", "0"), Gpu("B", 40 * GIB, "8.0", "1"), Gpu("C", 4 * GIB, "7.0", "2", reason="old")))
    monkeypatch.setattr(memory, "device_files", lambda: ["nvidia0"])
    monkeypatch.setattr(memory, "find_gpus", lambda: two)
    monkeypatch.setattr(memory, "known_gpus", lambda: None)
    monkeypatch.setattr(memory, "total_memory_gib", lambda: 100.0)
    assert capacity_of("local", "auto", None) == (Capacity(100 * GIB, 40 * GIB, True), 1)
    assert capacity_of("local", "auto", None, ask=False) == (Capacity(100 * GIB, None, True), 1)
    assert capacity_of("local", "cpu", None) == (Capacity(100 * GIB, None, False), 1)
    site = tmp_path / "site.toml"
    site.write_text("gpus = 4\nnodes = 2\nmemory = 64\n")
    assert capacity_of("slurm", "auto", str(site)) == (Capacity(16 * GIB, None, True), 8)


def test_the_plan_says_it_and_the_sweep_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "total_memory_gib", lambda: 16.0)
    wide = ["table1", "--scale", "toy", "--set", "network.width=60000", "--device", "cpu", "--results", str(tmp_path)]
    assert main(["plan", *wide]) == 0
    assert "network.width" in capsys.readouterr().out
    assert main(["sweep", *wide, "--executor", "local", "--quiet"]) == 2
    assert "network.width" in capsys.readouterr().err and not list(tmp_path.glob("runs/*/lock"))

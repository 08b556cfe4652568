"""Numbers from outside have a range: what would overflow, never end or mean something else is refused before anything is planned."""

from __future__ import annotations

import pytest

from harness.cli import main
from harness.config import presets
from harness.config.overrides import override
from harness.config.parts import Independent
from harness.config.selection import MOST_SEEDS, parse_seeds
from harness.errors import HarnessError


@pytest.mark.parametrize(
    "pair",
    [
        "train.steps=" + "9" * 23,
        "train.steps=0",
        "train.steps=true",
        "train.lr=true",
        "train.lr=1e300",
        "train.batch=99999999999",
        "network.depth=99999999999",
        "network.width=1e3",
        "network.channel_mult=[1,99999999]",
        "noise.rho=0.001",
        "noise.sigma_max=1e300",
        "objective.p_mean=1e300",
        "objective.p_std=1e300",
        "objective.huber=1e300",
        "objective.n1=99999999999",
        "evaluation.samples=99999999999",
        "evaluation.grid=99999999999",
        "train.threads=99999",
        "seed=" + "9" * 100,
        "data.limit=-1",
    ],
)
def test_a_number_out_of_range_is_named_with_its_key(pair):
    run = presets.make("toy", "eight-gaussians", Independent(), 0)
    with pytest.raises(HarnessError) as error:
        override(run, [pair])
    assert pair.partition("=")[0] in error.value.details["where"]


SEEDS = (
    *("100000", "10000000", "9" * 20, "9" * 100, "0", ",".join(map(str, range(MOST_SEEDS + 1))), "1e3", "²"),
    *("4294967296,", "9" * 20 + ",", "1,2147483648"),
)
"""Too many, none, no number, or a seed that no run can have."""


@pytest.mark.parametrize("seeds", SEEDS)
def test_seeds_out_of_range_are_refused_at_once(seeds, capsys):
    assert main(["plan", "table1", "--scale", "toy", "--seeds", seeds]) == 2
    message = capsys.readouterr().err
    assert "--seeds" in message and len(message) < 600


def test_seeds_in_range_are_read():
    assert parse_seeds(str(MOST_SEEDS)) == tuple(range(MOST_SEEDS)) and parse_seeds("2147483647,") == (2147483647,)


@pytest.mark.parametrize(
    ("scale", "pair"),
    [("toy", "data.limit=4097"), ("digits", "data.limit=1000000000"), ("digits", "data.name=two-moons"), ("toy", "data.name=digits")],
)
def test_what_does_not_fit_the_data_is_refused_before_a_run_starts(scale, pair, tmp_path, capsys):
    assert main(["sweep", "table1", "--scale", scale, "--set", pair, "--results", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert ("data.limit" in message or "network.kind" in message) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "pairs"),
    [
        ("network.base_channels", ["network.base_channels=17"]),
        ("network.base_channels", ["network.base_channels=144"]),
        ("network.channel_mult", ["network.channel_mult=(1,1,1,1,1)", "network.num_blocks=(1,1,1,1,1)", "network.dropout=(0,0,0,0,0)"]),
        ("network.attention", ["network.attention=(16,)"]),
        ("evaluation.samples", ["evaluation.samples=4"]),
    ],
)
def test_what_does_not_fit_the_images_is_refused_by_the_plan(key, pairs, capsys):
    assert main(["plan", "table1", "--scale", "digits", *(word for pair in pairs for word in ("--set", pair))]) == 2
    message = capsys.readouterr().err
    assert key in message and "expected" in message


def test_noise_levels_that_float32_cannot_tell_apart_are_refused():
    run = presets.make("toy", "eight-gaussians", Independent(), 0)
    with pytest.raises(HarnessError, match="do not fit together"):
        override(run, ["noise.sigma_min=79.99999999999999"])
    assert override(run, ["noise.sigma_min=79.9"]).noise.sigma_min == 79.9


@pytest.mark.parametrize("arguments", [["sweep", "table1", "--micro-batch"], ["prepare", "cifar10", "--from", ".", "--skip-damaged"]])
def test_a_count_out_of_range_is_named_with_its_option(arguments, capsys):
    assert main([*arguments, "9" * 20]) == 2
    assert f"where:    {arguments[-1]}" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--results", "--site"])
def test_an_empty_path_is_refused(option, capsys):
    """As from "$RESULTS" where the variable is not set."""
    assert main(["sweep", "table1", "--scale", "toy", option, ""]) == 2
    message = capsys.readouterr().err
    assert option in message and "no path" in message


def test_a_key_that_is_set_twice_is_refused(capsys):
    arguments = ["plan", "table1", "--scale", "toy", "--set", "train.steps=10", "--set", "train.steps=20"]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "train.steps=10" in message and "train.steps=20" in message


@pytest.mark.parametrize("arguments", [["--seconds", "nan"], ["--seconds", "inf"], ["--seconds", "-1"], ["--seconds", "1e9"]])
def test_a_benchmark_ends(arguments, capsys):
    assert main(["bench", *arguments]) == 2
    assert "--seconds" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "-1", "9" * 20])
def test_a_number_of_workers_has_limits(workers, tmp_path, capsys):
    assert main(["sweep", "table1", "--scale", "toy", "--workers", workers, "--results", str(tmp_path)]) == 2
    assert "--workers" in capsys.readouterr().err and not list(tmp_path.iterdir())

"""A selection gives runs, and a command that selects them again."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cli
from harness.commands import common
from harness.config.experiments import expand
from harness.config.selection import Selection, format_seeds, parse_seeds
from harness.errors import HarnessError


def test_seeds_are_a_count_or_a_list():
    assert parse_seeds("3") == (0, 1, 2) and parse_seeds("0,4,4") == (0, 4) and parse_seeds("7,") == (7,)
    for text in ("", "a", "-1", "1.5", "0", ",", "²"):
        with pytest.raises(HarnessError):
            parse_seeds(text)


@given(st.lists(st.integers(0, 99), min_size=1, unique=True))
def test_seeds_are_printed_as_they_are_read(seeds):
    assert parse_seeds(format_seeds(seeds)) == tuple(seeds)


def test_defaults_are_left_out():
    assert Selection("table1").command("harness sweep") == "harness sweep table1"


def test_a_printed_command_selects_the_same_runs():
    chosen = Selection("table1", "toy", (4,), ("train.steps=30", "network.dropout=[0.1]"), ("my file.py:f",), Path("/a b/results"))
    words = shlex.split(chosen.command("harness sweep", "--quiet"))
    arguments = cli.build_parser().parse_args(words[1:])
    assert common.selection(arguments) == chosen and arguments.quiet


def test_a_suffix_names_what_is_not_at_its_default():
    assert Selection("table1").suffix() == Selection("table1", "toy", results=Path("/a")).suffix() == ""
    assert Selection("table1", seeds=(4,), overrides=("train.lr=1e-4",)).suffix() == "-train.lr=1e-4-seed-4"
    assert Selection("table1", seeds=(2, 0, 1)).has_default_seeds() and not Selection("table1", seeds=(2, 1)).has_default_seeds()


def test_suffixes_of_different_selections_differ_and_are_file_names():
    overrides = ["network.channel_mult=2,2", "network.channel_mult=2-2", "a=/x", "a=x", *(f"network.width={'1' * 90}{i}" for i in (1, 2))]
    selections = [Selection("table1", overrides=(text,)) for text in overrides]
    selections += [Selection("table1", couplings=(f"{folder}/my.py:f",)) for folder in ("a", "b")]
    selections += [Selection("table1", seeds=seeds) for seeds in ((7,), tuple(range(7)), tuple(range(90)), tuple(range(91)))]
    suffixes = [chosen.suffix() for chosen in selections]
    assert len(set(suffixes)) == len(selections)
    assert all(re.fullmatch(r"[A-Za-z0-9_.=-]{1,60}", suffix) for suffix in suffixes)


def test_runs_are_those_of_the_experiment():
    runs = Selection("table1", "toy", (1,), ("train.steps=30",)).runs()
    assert [run.id for run in runs] == [run.id for run in expand("table1", "toy", (1,), ["train.steps=30"])]
    assert {run.seed for run in runs} == {1} and {run.train.steps for run in runs} == {30}

"""Configurations of runs, to be trained: from a preset with a few changes, or those of an experiment. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from harness.config import experiments, presets
from harness.config.overrides import override
from harness.config.parts import BatchOT, Coupling, GeneratorAugmented, Independent
from harness.config.run import Run
from harness.config.selection import DEFAULT_SCALE, Selection
from harness.config.trust import trust
from harness.errors import HarnessError
from harness.locations import read_regular, user_path

COUPLINGS = '"ic", "ot", "gc-MU" as "gc-0.5", "FILE.py:FUNCTION", or a coupling of harness.config.parts'


def preset(
    scale: str = DEFAULT_SCALE,
    data: str | None = None,
    coupling: str | Coupling = "gc-0.5",
    seed: int = 0,
    changes: Mapping[str, object] | None = None,
) -> Run:
    """The run of a scale's preset, with a few changes; nothing is trained.

    scale: "toy", "digits", "fashion" or "paper". data: one of its data sets, or one of your own images; by default its main one. coupling:
    "ic", "ot", "gc-0.5" (or another mu), "FILE.py:FUNCTION" for one of your own, or a coupling of harness.config.parts. Naming a file says
    that its code may be executed. seed: of training. changes: other values by key, as {"train.steps": 400}; `harness config` on the command
    line lists the keys. Returns a `Run`; its `id` is the name of its folder. Raises HarnessError for an unknown name, key or value.

        run = harness.preset("toy", coupling="my_coupling.py:half_swapped", changes={"train.steps": 400, "ema.rate": 0.99})
    """
    main = presets.scale(scale).table1[0]
    made = presets.make(scale, data or main, coupling_of(coupling), seed)
    return override(made, _pairs(changes))


def experiment(
    name: str,
    scale: str = DEFAULT_SCALE,
    seeds: int | Sequence[int] | None = None,
    changes: Mapping[str, object] | None = None,
    couplings: Sequence[str] = (),
    data: str | Sequence[str] = (),
) -> list[Run]:
    """The runs of an experiment, in an order in which each comes after those that it needs; nothing is trained.

    name: a file of experiments/, as "table1". seeds: a count or a list of training seeds, by default the experiment's. changes: see
    `preset`; a key is set in every run that has it. couplings: further ones, each as "FILE.py:FUNCTION"; naming a file says that its code
    may be executed. data: data sets in the place of those of the scale, also of your own images. Raises HarnessError for an unknown name,
    key or value.

        for run in harness.experiment("table1", "toy", seeds=2, changes={"train.steps": 400}):
            harness.run(run)
    """
    return selection(name, scale, seeds, changes, couplings, data).runs()


def selection(
    name: str,
    scale: str,
    seeds: int | Sequence[int] | None,
    changes: Mapping[str, object] | None,
    couplings: Sequence[str],
    data: str | Sequence[str],
) -> Selection:
    """What the command line's options would select. Files of couplings are trusted."""
    for coupling in couplings:
        _trust(coupling)
    numbers = None if seeds is None else tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if numbers is not None and (not numbers or not all(type(seed) is int and seed >= 0 for seed in numbers)):
        raise HarnessError("no training seeds", where="seeds", found=seeds, expected="a count of 1 or more, or a list of numbers")
    sets = (data,) if isinstance(data, str) else tuple(data)
    return Selection(name, scale, numbers, tuple(_pairs(changes)), tuple(couplings), data=sets)


def coupling_of(coupling: str | Coupling) -> Coupling:
    """A coupling by name. Raises HarnessError for an unknown name, or a file without that function."""
    if not isinstance(coupling, str):
        return coupling
    if ":" in coupling:
        custom = experiments.custom(coupling)
        _trust(coupling)
        return custom
    if coupling == "ic":
        return Independent()
    if coupling == "ot":
        return BatchOT()
    try:
        kind, mu = coupling.split("-", 1)
        if kind == "gc":
            return GeneratorAugmented(mu=float(mu))
    except ValueError:  # no number, or one that is no probability
        pass
    raise HarnessError("unknown coupling", where="coupling", found=coupling, expected=COUPLINGS)


def _trust(coupling: str) -> None:
    """Trusts the file of a coupling that the caller named. A missing file is reported where it is needed."""
    path = user_path(coupling.rpartition(":")[0], "coupling")
    if path.is_file():
        trust(hashlib.sha256(read_regular(path, experiments.MOST_CODE)).hexdigest())


def _pairs(changes: Mapping[str, object] | None) -> list[str]:
    """Changes as KEY=VALUE."""
    return [f"{key}={json.dumps(value, default=str)}" for key, value in (changes or {}).items()]

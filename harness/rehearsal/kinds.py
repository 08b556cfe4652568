"""Which runs of a plan are rehearsed: one for each kind of run, shortened, with a network that fits into memory. No torch.

Runs are of one kind if they run the same code on data of the same shape: they may differ in seed and mu, and in numbers that enter the
arithmetic alone, as the learning rate. What differs otherwise is another kind: data set, network, optimizer, objective, coupling,
precision, batch, initial weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.config.experiments import in_order
from harness.config.identity import NOT_IDENTITY, canonical_json
from harness.config.overrides import from_dict
from harness.config.parts import BatchOT, GeneratorAugmented
from harness.config.run import Run, varied
from harness.data.catalogue import DatasetInfo, info_of, least_samples
from harness.errors import HarnessError
from harness.sweep.memory import GIB, TORCH, gib, need
from harness.sweep.network_size import network_size

SHARED = {
    "train": ("steps", "lr"),
    "ema": ("rate",),
    "evaluation": ("every", "samples", "resamplings", "grid"),
    "objective": ("q", "double", "n0", "n1"),
    "coupling": ("mu", "frozen_step"),
}
"""Keys in which runs of one kind may differ, besides the seed: numbers that change the arithmetic and not what is executed."""
SMALL = 50_000_000
"""Values that the backward pass of a batch keeps, up to which a CPU rehearses complete batches."""
ROWS = 2
"""Rows of a batch on a CPU otherwise: the fewest with which batch-OT has a choice."""
INCEPTION = GIB / 4
"""Bytes of an evaluation with the Inception network beside the run: its inputs, and covariances of 2,048 features in float64."""
TRAIN_ROWS, HELD_OUT_ROWS = 64, 24
"""Images of each stand-in for a data set; the baselines need at least 20 that are held out."""


@dataclass(frozen=True)
class Length:
    """How long a rehearsal of a run is. every: steps between evaluations, None for one at the end.

    stop: the last step but one, after which it is stopped once, with a checkpoint that may be kept.
    """

    steps: int
    rows: int
    samples: int
    resamplings: int
    grid: int
    every: int | None = None

    @property
    def stop(self) -> int:
        return self.steps - 1


@dataclass(frozen=True)
class Estimate:
    """Bytes that a run needs at its peak, by estimate. device: where the network is. host: of the process; on a CPU the same.

    least: on the device, if a batch goes through the network row by row, as a job on a GPU does where it must.
    """

    device: float
    host: float
    least: float

    @property
    def text(self) -> str:
        """Both in words, where they are two."""
        return gib(self.device) if self.device == self.host else f"{gib(self.device)} (host {gib(self.host)})"


@dataclass(frozen=True)
class Kind:
    """One run that is rehearsed. planned: the runs of the plan that it stands for, the first of which it was made from."""

    run: Run
    planned: tuple[Run, ...]
    length: Length
    estimate: Estimate
    narrowed: str = ""
    """The network that takes the place of the full one, in words; "" for the full one."""

    @property
    def others(self) -> tuple[str, ...]:
        """The names of the other runs that it stands for."""
        return tuple(run.id for run in self.planned[1:])


def kinds(runs: Sequence[Run], *, uses_gpu: bool, limit: float, gpu: float | None = None) -> list[Kind]:
    """The kinds of these runs, those that others need first.

    limit: bytes that a run may take on the host. gpu: bytes of the GPU, None if unknown. Raises HarnessError for runs that need others
    which are not among them, and if not even the narrowest network fits.
    """
    known = closed_order(runs)
    groups: dict[str, list[Run]] = {}
    keys: dict[str, str] = {}
    for name, run in known.items():
        keys[name] = _key(run, keys)
        groups.setdefault(keys[name], []).append(run)
    chosen = {key: max(members, key=_mu) for key, members in groups.items()}  # the one that predicts most, so the slowest
    widths: dict[str, int] = {}
    for run in chosen.values():  # runs that start from the same weights, or from each other, need the same width
        width = fitted(shortened(run, length_of(run, uses_gpu), {}, False, "few steps"), uses_gpu, limit, gpu).network.base_channels
        widths[_weights(run)] = min(width, widths.get(_weights(run), width))
    rehearsed: dict[str, Kind] = {}
    for key, members in groups.items():
        first = chosen[key]
        planned = (first, *(run for run in members if run is not first))
        needs = {name: rehearsed[keys[name]].run for name in first.needs}
        keeps = any(run.keep_steps for run in members)
        rehearsed[key] = _kind(first, planned, needs, keeps, widths[_weights(first)], uses_gpu)
    merged: dict[str, Kind] = {}
    for kind in rehearsed.values():  # some kinds differ in what is shortened alone, as in the batch
        same = merged.get(kind.run.id)
        merged[kind.run.id] = replace(same, planned=same.planned + kind.planned) if same else kind
    return list(merged.values())


def closed_order(runs: Sequence[Run]) -> dict[str, Run]:
    """The runs by id, each after those that it needs. Raises HarnessError for a run that needs one which is not among them."""
    known = in_order(runs)
    for run in known.values():
        if lacking := [name for name in run.needs if name not in known]:
            what = "a run needs another one that is no part of this experiment, and so of no rehearsal of it"
            raise HarnessError(what, where=run.id, found=lacking[0], expected="runs of the experiment")
    return known


def _mu(run: Run) -> float:
    return run.coupling.mu if isinstance(run.coupling, GeneratorAugmented) else 0.0


def _key(run: Run, keys: Mapping[str, str]) -> str:
    """What the runs of a kind have in common. keys: of the runs that it needs."""
    config = {key: value for key, value in run.to_dict().items() if key not in (*NOT_IDENTITY, "seed")}
    for part, names in SHARED.items():
        config[part] = {key: value for key, value in config[part].items() if key not in names}
    config["only endpoints"] = _mu(run) == 1
    config["needs"] = [keys[name] for name in run.needs]
    for part, key in (("coupling", "frozen"), ("init", "ref")):
        if (config[part] or {}).get(key) in run.needs:
            config[part] = config[part] | {key: None}
    return canonical_json(config)


def _weights(run: Run) -> str:
    """What runs have in common whose weights fit each other's networks."""
    network = {key: value for key, value in run.network.model_dump().items() if key != "dropout"}
    return canonical_json([network, run.data.name, run.data.labels])


def _kind(run: Run, planned: tuple[Run, ...], needs: Mapping[str, Run], keeps: bool, width: int, uses_gpu: bool) -> Kind:
    length, full = length_of(run, uses_gpu), run.network.base_channels
    narrowed = f"{width} instead of {full} base channels" if width != full else ""
    short = varied(shortened(run, length, needs, keeps, _text(stand_ins_of(run), narrowed)), network={"base_channels": width})
    return Kind(short, planned, length, estimated(short, uses_gpu), narrowed)


def _text(missing: Sequence[str], narrowed: str) -> str:
    """`Run.rehearsal`: what is not real."""
    stand_ins = f"stand-ins for {', '.join(missing)}" if missing else "real data"
    return "; ".join(["few steps", stand_ins, *([f"network with {narrowed}"] if narrowed else [])])


def needs_stand_in(dataset: DatasetInfo) -> bool:
    """Whether a stand-in takes the place of a data set: of those that `harness prepare` makes of official archives. Others are real."""
    return dataset.source is not None and dataset.custom is None


def stand_ins_of(run: Run) -> list[str]:
    """What stand-ins take the place of, for a run, in words."""
    dataset = info_of(run.data)
    missing = ["the data set"] * needs_stand_in(dataset) + ["the Inception network"] * dataset.needs_inception
    return missing + ([f"the weights {run.init.ref}"] if run.init and run.init.kind == "edm" else [])


def length_of(run: Run, uses_gpu: bool) -> Length:
    """The length of a rehearsal: of complete batches on a GPU and for small networks, of a few rows otherwise."""
    dataset, evaluation = info_of(run.data), run.evaluation
    small = network_size(run).activations * run.train.batch <= SMALL
    if uses_gpu or small:
        return Length(12, run.train.batch, min(evaluation.samples, 200), min(evaluation.resamplings, 2), min(evaluation.grid, 16))
    samples = min(evaluation.samples, least_samples(dataset.name))
    return Length(3, min(run.train.batch, ROWS), samples, 1, min(evaluation.grid, 1))


def shortened(run: Run, length: Length, needs: Mapping[str, Run], keeps: bool, rehearsal: str) -> Run:
    """The run with a few steps of `length.rows` rows and few samples, marked as a rehearsal, with everything else as planned.

    needs: id of a needed run -> the shortened one. keeps: whether others need an earlier checkpoint of it.
    """
    config: dict[str, Any] = run.to_dict()
    config["train"] |= {"steps": length.steps, "batch": length.rows}
    evaluation = {"every": length.every or length.steps, "samples": length.samples, "resamplings": length.resamplings, "grid": length.grid}
    config["evaluation"] |= evaluation
    config |= {"checkpoint_every": length.steps, "keep_steps": [length.stop] if keeps else [], "rehearsal": rehearsal}
    if isinstance(run.coupling, BatchOT) and run.coupling.size is not None:
        config["coupling"] |= {"size": length.rows}
    if run.data.limit is not None and needs_stand_in(info_of(run.data)):
        config["data"] |= {"limit": min(run.data.limit, TRAIN_ROWS)}
    for part, key in (("coupling", "frozen"), ("init", "ref")):
        if (config[part] or {}).get(key) in needs:
            needed = needs[config[part][key]]
            config[part] |= {key: needed.id}
            if config[part].get("frozen_step"):
                config[part] |= {"frozen_step": needed.train.steps - 1}
    return from_dict(config, where=run.id)


def network_bytes(run: Run) -> float:
    """The weights of a run's network in float32."""
    return 4.0 * network_size(run).parameters


def estimated(run: Run, uses_gpu: bool) -> Estimate:
    """The memory of a rehearsed run, checkpoints included: their copy in memory, and the file that is built there before it is written."""
    stored = 2 + (1 if run.train.optimizer == "lion" else 2)  # weights, EMA, moments
    checkpoint = 2 * stored * network_bytes(run)
    dataset = info_of(run.data)
    measured = INCEPTION if dataset.needs_inception else 0.0
    few = varied(run, data={"limit": run.data.limit or TRAIN_ROWS}) if needs_stand_in(dataset) else run
    needed = need(few, uses_gpu=uses_gpu)
    if not uses_gpu:
        total = needed.of_batch(uses_gpu=False) + checkpoint + measured
        return Estimate(total, total, total)
    host, least = TORCH + sum(needed.host.values()) + checkpoint, needed.constant(uses_gpu=True) + needed.row + measured
    return Estimate(needed.of_batch(uses_gpu=True) + measured, host, least)


def fitted(run: Run, uses_gpu: bool, limit: float, gpu: float | None) -> Run:
    """The run with the widest network, up to its own, whose estimate stays within the memory.

    Raises HarnessError if none does.
    """

    def fits(estimate: Estimate) -> bool:
        return estimate.host <= limit and (not uses_gpu or gpu is None or estimate.least <= gpu)

    full = estimated(run, uses_gpu)
    if fits(full):
        return run
    unit = run.network.channels_per_head if run.network.kind == "edm2" else 32
    widths = range((run.network.base_channels - 1) // unit * unit, 0, -unit) if run.network.kind not in ("mlp", "linear") else ()
    for width in widths:
        narrow = varied(run, network={"base_channels": width})
        if fits(estimated(narrow, uses_gpu)):
            return narrow
    found, expected = f"about {full.text} for {run.slug}", f"at most {gib(limit)}" + (f" and {gib(gpu)} of the GPU" if gpu else "")
    what = "not even the narrowest network fits into the memory"
    raise HarnessError(what, where="--memory", found=found, expected=expected, nearest="a larger --memory, or a machine with more")


def hours(kind: Kind, seconds: float) -> float | None:
    """Device-hours of all runs that a kind stands for, by the measured seconds of one of its steps; None for a narrowed network.

    A step is taken to last in proportion to its rows, which counts the part that does not depend on them as often as the planned batch is
    larger: too much, unless complete batches were rehearsed.
    """
    if kind.narrowed:
        return None
    return sum(run.train.steps * seconds * run.train.batch / kind.length.rows for run in kind.planned) / 3600

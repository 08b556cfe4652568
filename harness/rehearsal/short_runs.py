"""Which runs a smoke test trains: all of a plan, a few steps each, with narrow networks where the planned ones are large. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from harness.config.parts import SMOKE_TEST, BatchOT, CustomData
from harness.config.run import Run, varied
from harness.data.catalogue import info_of, least_samples, main_metric
from harness.errors import HarnessError
from harness.rehearsal.kinds import SMALL, TRAIN_ROWS, Length, closed_order, shortened
from harness.sweep.network_size import network_size

STEPS, EVERY = 4, 2
"""Training steps of a run, and those between two evaluations, so that a curve has two points."""
ROWS, SAMPLES = 32, 32
"""Rows of a batch, and samples of an evaluation, of small networks."""
FEW_ROWS = 8
"""Rows of a batch where networks were narrowed; the samples are then the fewest that can be measured."""
NARROWER = (4, 2)
"""By how much a large network is narrowed: by the first number for which it remains a valid one."""


@dataclass(frozen=True)
class Given:
    """What the runs of a smoke test get instead of what is planned.

    few: data sets of which there are TRAIN_ROWS images. custom: the users' own among them, as they are then. text: `Run.rehearsal`.
    """

    few: frozenset[str] = frozenset()
    custom: Mapping[str, CustomData] = field(default_factory=dict)
    text: str = SMOKE_TEST


def short_runs(planned: Sequence[Run], given: Given) -> dict[str, Run]:
    """Planned id -> the run of the smoke test, in an order in which each follows those that it needs.

    Each is another run: where two would be alike, as two that differ in their steps, the second has one step more, and so on, with every
    seed alike. Raises HarnessError for a run that needs one which is not among them.
    """
    known = closed_order(planned)
    needed = {name for run in known.values() for name in run.needs}
    large = any(network_size(run).activations * run.train.batch > SMALL for run in known.values())
    short: dict[str, Run] = {}
    taken: set[str] = set()
    for name, run in known.items():
        for steps in count(STEPS):
            made = _short(run, steps, large, short, name in needed, given)
            if made.id not in taken:
                break
        short[name] = made
        taken.add(made.id)
    return short


def steps_text(runs: Iterable[Run]) -> str:
    """How many steps the runs have: "4 steps", "4 to 6 steps"."""
    steps = sorted({run.train.steps for run in runs})
    return f"{steps[0]} steps" if len(steps) == 1 else f"{steps[0]} to {steps[-1]} steps"


def is_narrowed(planned: Iterable[Run], short: Mapping[str, Run]) -> bool:
    """Whether a run has a narrower network than planned."""
    return any(short[run.id].network != run.network for run in planned)


def _short(run: Run, steps: int, large: bool, needs: Mapping[str, Run], keeps: bool, given: Given) -> Run:
    rows = min(run.train.batch, FEW_ROWS if large else ROWS)
    images = min(run.data.custom.train, TRAIN_ROWS) if run.data.custom else TRAIN_ROWS
    dataset, few = info_of(run.data), run.data.name in given.few
    rows = min(rows, images) if few else rows
    samples = min(run.evaluation.samples, least_samples(dataset.name) if large and main_metric(dataset.name) == "fid" else SAMPLES)
    length = Length(steps, rows, samples, min(run.evaluation.resamplings, 2), min(run.evaluation.grid, 4 if large else 16), EVERY)
    made = shortened(narrowed(run) if large else run, length, needs, keeps, given.text)
    changes: dict[str, dict[str, object]] = {"train": {"compile": False}}
    if isinstance(run.coupling, BatchOT) and run.coupling.size is not None:
        changes["coupling"] = {"size": _in_proportion(run.coupling.size, run.train.batch, rows)}
    if few:
        changes["data"] = {"custom": given.custom.get(run.data.name, run.data.custom)}
        if run.data.limit is not None:
            changes["data"]["limit"] = min(images, max(rows, round(run.data.limit * images / dataset.train)))
    return varied(made, **changes)


def _in_proportion(size: int, batch: int, rows: int) -> int:
    """The rows of an assignment in a batch of `rows`, where they were `size` in one of `batch`: a multiple or a divisor of `rows`."""
    if size >= batch:
        return size // batch * rows
    parts = batch // size
    return rows // parts if rows % parts == 0 and rows > parts else rows


def narrowed(run: Run) -> Run:
    """The run with a quarter of the channels, or half of them, and one block on each level; unchanged for points."""
    network = run.network
    if network.kind in ("mlp", "linear"):
        return run
    for part in NARROWER:
        changes: dict[str, object] = {"base_channels": network.base_channels // part, "num_blocks": (1,) * len(network.num_blocks)}
        if network.kind == "edm2":
            changes["channels_per_head"] = network.channels_per_head // part
        try:
            narrow = varied(run, network=changes)
            network_size(narrow)
        except (HarnessError, ValueError):  # channels that do not divide into groups or heads
            continue
        return narrow
    return run

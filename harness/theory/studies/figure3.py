"""Figure 3: the quadratic transport cost c(t) = E|f(x_t, t) - z|^2, equation (19), of GC with the ideal flow and with trained models,
beside the levels of IC, batch-OT and exact OT.

The endpoints of a trained f lie beside the data and lean towards z; a lean of e z lowers c by about 2 e d, below what any coupling of the
data can reach. So beside c(t) stands cost-data, the cost once every endpoint is moved to the nearest data point, which like batch-OT's is
that of a coupling of data and noise; and data-distance, how far the endpoints were moved. With the ideal flow the two costs are the same.
Exact OT between the data and equally many noises is no lower bound: those noises are finite in number, the ideal flow's law of z is not.

All curves of a data set see the same pairs (x, z). Their errors are those left after a regression on |z|^2, <x, z> and |x|^2, whose means
are known exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.config.run import GeneratorAugmented, Run, coupling_label, coupling_slug
from harness.core.randomness import generator
from harness.data.datasets import Dataset
from harness.theory.estimate import Estimate, mean
from harness.theory.flow import SIGMA_MAX, Function, at_level, noised
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.proxy import noise_like
from harness.theory.studies.common import Row, Setting, check_unconditional, row, said_negative
from harness.theory.studies.run_pairs import pairs_of
from harness.theory.transport import batch_ot_cost, pair_cost

LEVELS = (0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0)
SIZES = {128: 32, 512: 16, 2048: 4}
"""Rows of one assignment: how many assignments."""
MOST = 4096
"""Rows of exact OT: 0.7 GB and seconds. A larger data set gives so many of its rows."""
IC_BATCHES, PAIR_BATCHES = 16, 32
NUMBERS = 2**21
"""Numbers of the pairs that the curves share: 1,437 digits whole, 2,048 images of Fashion-MNIST."""
WORK = {"cpu": 1e12, "cuda": 1e15}
"""Floating-point operations that the ideal flow should cost: a minute or so. It takes fewer rows for it, but never below LEAST, and is
left out where those cost OVER times as much."""
LEAST, OVER, CHUNK, STEPS = 64, 4, 512, 40


@dataclass(frozen=True)
class Draws:
    """Pairs (x, z) that all curves of a data set share, and what is known exactly of the data."""

    x: Tensor
    z: Tensor
    controls: Tensor
    """(n, 3) numbers of each pair whose mean is zero"""
    ic: float
    """c(0) exactly: E|x|^2 + d"""

    def first(self, n: int) -> Draws:
        return Draws(self.x[:n], self.z[:n], self.controls[:n], self.ic)

    def expectation(self, values: Tensor) -> Estimate:
        """The mean of values (n,) at controls of zero: a regression on them, with the error of what it leaves."""
        columns = torch.cat([torch.ones_like(self.controls[:, :1]), self.controls], 1)
        values = values.double()
        found = torch.linalg.lstsq(columns, values[:, None]).solution
        left = values - (columns @ found).squeeze(1)
        n, k = columns.shape
        return Estimate(float(found[0]), float((left.square().sum() / (n - k) / n).sqrt()), n)


@torch.no_grad()
def shared_draws(data: Dataset, seed: int = 0) -> Draws:
    """Every data row once, or as many different ones as NUMBERS allows, each with a noise of its own."""
    n = min(len(data), max(LEAST, NUMBERS // data.dim))
    x = data.batch(draw_rows(len(data), n, generator(seed, "measure", 0)))
    z = noise_like(x, generator(seed, "measure", 1))
    square = sum(float(data.batch(part).square().sum(dtype=torch.float64)) for part in torch.arange(len(data)).split(8192)) / len(data)
    a, b = x.flatten(1).double(), z.flatten(1).double()
    controls = torch.stack([b.square().sum(1) - data.dim, (a * b).sum(1), a.square().sum(1) - square], 1)
    return Draws(x, z, controls, square + data.dim)


def measure(setting: Setting) -> list[Row]:
    """Rows cost, cost-change, cost-data and data-distance at LEVELS, or at the setting's own; pair-cost of every run.

    Raises HarnessError for a run that is not finished or has labels, and for data too large for the memory.
    """
    runs = [run for run in setting.runs if run.objective.kind != "denoiser"]
    made: list[Row] = []
    for key in dict.fromkeys((run.data.name, run.data.limit) for run in runs):
        made += _of_data(setting, [run for run in runs if (run.data.name, run.data.limit) == key])
    return made


def _of_data(setting: Setting, runs: Sequence[Run]) -> list[Row]:
    for run in runs:
        check_unconditional(run)
    levels = levels_of(setting)
    first = setting.finished(runs[0])
    data, name = first.data, runs[0].data.name
    draws, oracle = shared_draws(data), Oracle(data.rows)
    setting.tell(f"{name}: IC, batch-OT and exact OT of {len(data):,} data")
    made = _levels(data, draws, setting.tell)
    made += ideal_rows(oracle, name, draws, levels, setting.tell)
    for run in runs:
        found = first if run is runs[0] else setting.finished(run)
        found.network.bf16 = False  # measured in float32, whatever it was trained in
        setting.tell(f"{name}: c(t) with the model of {run.slug}")
        own = isinstance(run.coupling, GeneratorAugmented)
        slug = coupling_slug(run.coupling)
        told = {"coupling": slug} if own else {"coupling": "gc", "case": f"by {slug}"}
        told |= {"label": f"GC by iCT-{coupling_label(run.coupling)}", "run": run}
        made += curve_rows(found, oracle, draws, levels, name, **told)
        actual = pairs_of(found, setting.store).cost(PAIR_BATCHES)
        made.append(row("pair-cost", name, actual, coupling=slug, run=run, protocol={"batches": PAIR_BATCHES}))
    return made


def levels_of(setting: Setting) -> list[float]:
    """0, where c is IC's cost, and the levels asked for."""
    return [0.0, *sorted(setting.levels or LEVELS)]


def _levels(data: Dataset, draws: Draws, tell: Callable[[str], None]) -> list[Row]:
    """What does not depend on t: rows without x, under cost and, as their endpoints are data, under cost-data."""
    n, noise = len(data), generator(0, "measure", 2)
    rows = draw_rows(n, len(draws.x) * IC_BATCHES, noise)
    costs = [pair_cost(x, noise_like(x, noise)) for x in map(data.batch, rows.split(len(draws.x)))]
    ic = Estimate(sum(c.value for c in costs) / len(costs), sum(c.se**2 for c in costs) ** 0.5 / len(costs), sum(c.n for c in costs))
    made = [row("cost", data.name, ic, coupling="ic", label="IC", truth=draws.ic, protocol={"pairs": ic.n})]
    left_out = [size for size in SIZES if size > n]
    if left_out:
        tell(f"{data.name}: batch-OT of {', '.join(f'{size:,}' for size in left_out)} left out: there are {n:,} data")
    for size, batches in SIZES.items():
        if size not in left_out:
            found = _assigned(data, size, batches, generator(0, "measure", size))
            made.append(row("cost", data.name, found, coupling=f"ot-{size}", label=f"batch-OT, {size:,}", protocol={"batches": batches}))
    size = min(n, MOST)
    if size < n:
        tell(f"{data.name}: exact OT of {size:,} of the {n:,} data, for the memory's sake")
    batches = 6 if size <= MOST // 2 else 2
    found = _assigned(data, size, batches, generator(0, "measure", 3))
    label = f"exact OT, {size:,}" + ("" if size == n else f" of {n:,}")
    made.append(row("cost", data.name, found, coupling="exact-ot", label=label, protocol={"batches": batches}))
    return made + [found | {"quantity": "cost-data"} for found in made]


def _assigned(data: Dataset, size: int, batches: int, draws: torch.Generator) -> Estimate:
    """E|x' - z'|^2 of batch-OT over `size` rows. The rows of each batch come by themselves, so that no more of the data is converted."""
    values = []
    for _ in range(batches):
        x = data.batch(draw_rows(len(data), size, draws)).cpu()
        values.append(batch_ot_cost(x, size, 1, draws).value)
    found = torch.tensor(values, dtype=torch.float64)
    return Estimate(float(found.mean()), float(found.std() / batches**0.5), batches)


def ideal_rows(oracle: Oracle, name: str, draws: Draws, levels: Sequence[float], tell: Callable[[str], None]) -> list[Row]:
    """c(t) of GC with the ideal flow, and by how much twice the Heun steps change it at the highest level (flow-change)."""
    points, d = oracle.points.shape
    affordable = int(WORK[draws.x.device.type] / (2 * STEPS * (len(levels) + 1) * points * (4 * d + 256)))
    if affordable * OVER < LEAST:
        tell(f"{name}: GC with the ideal flow left out, {points:,} points cost too much on {draws.x.device}")
        return []
    mine = draws.first(max(LEAST, min(len(draws.x), affordable)))
    tell(f"{name}: c(t) with the ideal flow, {len(mine.x):,} pairs at {len(levels) - 1} levels")
    told = {"coupling": "gc-ideal", "label": "GC by the ideal flow"}
    made = curve_rows(oracle.flow, oracle, mine, levels, name, **told)
    few, high = mine.first(2 * LEAST), levels[-1]
    once, twice = (endpoints(lambda x, t, k=k: oracle.flow(x, t, steps=k * STEPS), few.x, few.z, high) for k in (1, 2))
    change = mean(_squares(twice - few.z) - _squares(once - few.z))
    return [*made, row("flow-change", name, change, x=high, case=f"{2 * STEPS} steps", **told)]


def curve_rows(f: Function, oracle: Oracle, draws: Draws, levels: Sequence[float], name: str, **told: object) -> list[Row]:
    """c at each level and its change from the level before; the cost with each endpoint moved to the nearest data point, and E|move|^2."""
    kept: dict[str, list[Row]] = {"cost": [], "cost-change": [], "cost-data": [], "data-distance": []}
    before = _squares(draws.x - draws.z)
    told = {"protocol": {"pairs": len(draws.x), "levels": list(levels), "controls": 3}, **told}

    def add(quantity: str, values: Tensor, t: float) -> None:
        kept[quantity].append(row(quantity, name, draws.expectation(values), x=t, **told))

    for t in levels:
        if t == 0:  # there f is the identity, and c known exactly
            for quantity in ("cost", "cost-data"):
                kept[quantity].append(row(quantity, name, Estimate(draws.ic, 0.0, len(draws.x)), x=t, **told))
            continue
        ends = endpoints(f, draws.x, draws.z, t)
        nearest = oracle.data(oracle.posterior(ends, SIGMA_MAX, variance=False).peak).to(ends)  # the peak at any level
        now = _squares(ends - draws.z)
        add("cost", now, t)
        add("cost-change", now - before, t)
        add("cost-data", _squares(nearest - draws.z), t)
        add("data-distance", _squares(ends - nearest), t)
        before = now
    kept["cost-change"] = [said_negative(found) for found in kept["cost-change"]]
    return [found for rows in kept.values() for found in rows]


@torch.no_grad()
def endpoints(f: Function, x: Tensor, z: Tensor, t: float) -> Tensor:
    """f(x + t z, t), so many rows at a time."""
    parts = zip(x.split(CHUNK), z.split(CHUNK), strict=True)
    return torch.cat([f(noised(a, b, at_level(a, t)), at_level(a, t)) for a, b in parts])


def _squares(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1, dtype=torch.float64)

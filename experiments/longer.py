"""Longer: Table 1's models with ten times the steps, and what hides GC's advantage at the default length.

The long runs average the weights over four times as many steps as the preset (EMA rate 0.9995 instead of 0.998 at the digits scale). At the
default length, two settings are varied, alone and together: this EMA rate, and a quarter of the discretization steps n1, which leaves more
training steps to each stage of the schedule. On the scale's main data set.
"""

from harness.config import presets
from harness.config.run import varied

LONGER = 10
REPORT = {
    "notes": [
        "the first three rows are Table 1's; EMA rate: the weights are averaged over four times as many steps; n1: a quarter of the "
        "discretization steps, so that each stage of the schedule has more training steps; the last three rows have the higher EMA rate too"
    ]
}


def runs(scale, seeds):
    data = presets.scale(scale).table1[:1]
    all_runs = []
    for seed in seeds:
        table1 = presets.grid(scale, presets.MAIN, [seed], data)
        slow = [varied(run, ema={"rate": round(1 - (1 - run.ema.rate) / 4, 8)}) for run in table1]
        coarse, both = ([varied(run, objective={"n1": run.objective.n1 // 4}) for run in runs_] for runs_ in (table1, slow))
        all_runs += [*table1, *slow, *coarse, *both, *map(_long, slow)]
    return all_runs


def _long(run):
    every = run.evaluation.every * LONGER // 2
    long = varied(run, train={"steps": run.train.steps * LONGER}, evaluation={"every": every})
    return long.model_copy(update={"checkpoint_every": run.checkpoint_every * 5})

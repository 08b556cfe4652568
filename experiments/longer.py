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
        "the runs of ten times the steps and those with the higher EMA rate are new; the others are Table 1's and the schedule ablation's"
    ]
}


def runs(scale, seeds):
    data = presets.scale(scale).table1[:1]
    all_runs = []
    for run in presets.grid(scale, presets.MAIN, seeds, data):
        slow = {"rate": round(1 - (1 - run.ema.rate) / 4, 8)}
        coarse = {"n1": run.objective.n1 // 4}
        every = run.evaluation.every * LONGER // 2
        all_runs += [run, varied(run, ema=slow), varied(run, objective=coarse), varied(run, ema=slow, objective=coarse)]
        long = varied(run, train={"steps": run.train.steps * LONGER}, ema=slow, evaluation={"every": every})
        all_runs.append(long.model_copy(update={"checkpoint_every": run.checkpoint_every * 5}))
    return all_runs

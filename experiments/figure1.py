"""Figure 1: sample paths of PF-ODE, IC and GC on two Gaussians and two moons, exact and of small models trained with GC.

The data are points in the plane, so the two runs are the same at every scale. Noise levels, grid and mu = 1 are those of the toy example in
the released notebook; network and batch are the toy scale's, with which a run takes half a minute.
"""

from harness.config import presets
from harness.config.parts import GeneratorAugmented
from harness.config.run import varied

SEEDS = 3
DATA = ("two-gaussians", "two-moons")


def runs(scale, seeds):
    return [_run(data, seed) for data in DATA for seed in seeds]


def _run(data, seed):
    run = presets.make("toy", data, GeneratorAugmented(mu=1), seed)
    levels, grid = {"sigma_min": 0.001, "sigma_max": 5}, {"n0": 10, "n1": 100}
    return varied(run, noise=levels, objective=grid, train={"steps": 4000}, evaluation={"every": 1000})

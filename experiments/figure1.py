"""Figure 1: sample paths of PF-ODE, IC and GC on two Gaussians and two moons; beside the exact flow, small models trained with GC.

The figure is about points in the plane, so its two runs are the same at every scale. Levels, grid and mu = 1 are those of the released
notebook's toy; network, batch and steps are the toy scale's, with which a run takes half a minute.
"""

from harness.config import ablations, presets
from harness.config.run import GeneratorAugmented

SEEDS = 1
DATA = ("two-gaussians", "two-moons")


def runs(scale, seeds):
    return [_run(data, seed) for data in DATA for seed in seeds]


def _run(data, seed):
    run = presets.make("toy", data, GeneratorAugmented(mu=1), seed)
    return ablations.varied(
        run,
        noise={"sigma_min": 0.001, "sigma_max": 5},
        objective={"n0": 10, "n1": 100},
        train={"steps": 4000},
        evaluation={"every": 1000},
    )

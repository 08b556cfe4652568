"""Figure 1: sample paths of PF-ODE, IC and GC on two Gaussians and two moons; beside the exact flow, small models trained with GC.

The figure is about points in the plane, so its two runs are the same at every scale. Levels, grid and mu = 1 are those of the released
notebook's toy; network, batch and steps are the toy scale's, with which a run takes half a minute.
"""

from harness.config import ConsistencyTraining, GeneratorAugmented, Noise, presets

DATA = ("two-gaussians", "two-moons")


def runs(scale, seeds=None):
    return [_run(data, seed) for data in DATA for seed in presets.one_seed(seeds)]


def _run(data, seed):
    found = presets.make("toy", data, GeneratorAugmented(mu=1), seed)
    return found.model_copy(
        update={
            "noise": Noise(sigma_min=0.001, sigma_max=5),
            "objective": ConsistencyTraining(n0=10, n1=100),
            "train": found.train.model_copy(update={"steps": 4000}),
            "evaluation": found.evaluation.model_copy(update={"every": 1000}),
        }
    )

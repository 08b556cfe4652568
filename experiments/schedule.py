"""Noise schedule: does GC's advantage over IC depend on n0, n1 and rho? Each is varied alone; the first pair is Table 1's.

On the scale's main data set, one training seed unless asked for more (--seeds 3); at the digits scale one other value each.
"""

from harness import presets
from harness import presets_ablations as ablations
from harness.config import GeneratorAugmented, Independent


def runs(scale, seeds=None):
    data = presets.scale(scale).table1[0]
    found = []
    for seed in seeds if seeds is not None else [0]:
        for coupling in (Independent(), GeneratorAugmented(mu=0.5)):
            run = presets.make(scale, data, coupling, seed)
            few = scale == "digits"
            n0 = (40,) if few else (20, 80)
            n1 = (run.objective.n1 // 4,) if few else (run.objective.n1 // 8, run.objective.n1 * 2)
            rho = (3,) if few else (3, 10)
            found.append(run)
            found += [ablations.varied(run, objective={"n0": value}) for value in n0]
            found += [ablations.varied(run, objective={"n1": value}) for value in n1]
            found += [ablations.varied(run, noise={"rho": value}) for value in rho]
    return found

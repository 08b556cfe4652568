"""Noise schedule: does GC's advantage over IC depend on n0, n1 and rho? Each is varied alone; the first pair is Table 1's.

On the scale's main data set, one training seed unless asked for more (--seeds 3); at the digits scale one other value each.
"""

from harness.config import ablations

SEEDS = 1


def runs(scale, seeds):
    few = scale == "digits"
    found = []
    for run in ablations.ic_and_gc(scale, seeds):
        last = run.objective.n1
        n1 = (last // 4,) if few else (last // 8, last * 2)
        found.append(run)
        found += [ablations.varied(run, objective={"n0": value}) for value in ((40,) if few else (20, 80))]
        found += [ablations.varied(run, objective={"n1": value}) for value in n1]
        found += [ablations.varied(run, noise={"rho": value}) for value in ((3,) if few else (3, 10))]
    return found

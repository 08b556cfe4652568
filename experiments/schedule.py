"""Noise schedule: does GC's advantage over IC depend on n0, n1 and rho? Each is varied alone; the first pair is Table 1's.

On the scale's main data set; one training seed by default. The digits scale tries one other value each.
"""

from harness.config import ablations
from harness.config.run import varied


def runs(scale, seeds):
    few = scale == "digits"
    all_runs = []
    for run in ablations.ic_and_gc(scale, seeds):
        last = run.objective.n1
        n1 = (last // 4,) if few else (last // 8, last * 2)
        all_runs.append(run)
        all_runs += [varied(run, objective={"n0": value}) for value in ((40,) if few else (20, 80))]
        all_runs += [varied(run, objective={"n1": value}) for value in n1]
        all_runs += [varied(run, noise={"rho": value}) for value in ((3,) if few else (3, 10))]
    return all_runs

"""Why mu lies between 0.3 and 0.7: GC for mu = 0, 0.1, ..., 1 with few, some and many discretization steps (n1 = 10, 40, 160).

`make why-mu` measures these runs, about ten seconds each: the bias of what they generate, the variance of the gradient within IC rows,
within GC rows and between them, the discrepancy R(theta), the transport cost c(t) and the quality of samples, beside the closed form for a
linear function on Gaussian data. Its tables say which mu each of these prefers and whether it explains the quality. Shares the mu sweep's
runs at the preset's n1. On the scale's main data set.
"""

from harness.config import presets
from harness.config.parts import GeneratorAugmented, Independent
from harness.config.run import varied

N1 = (160, 40, 10)
MU = [round(0.1 * i, 1) for i in range(1, 11)]


def runs(scale, seeds):
    data = presets.scale(scale).table1[:1]
    couplings = [Independent(), *(GeneratorAugmented(mu=mu) for mu in MU)]
    return [varied(run, objective={"n1": n1}) for n1 in N1 for run in presets.grid(scale, couplings, seeds, data)]

"""Table 3: ablations of iCT-GC: endpoints predicted without EMA, with dropout, stopped at iCT-IC's wall-clock; IC with and without dropout.

On the scale's main data set. The row "stopped at iCT-IC's wall-clock time" needs no run: it is read from GC's curve at the time when IC
had finished. Shares Table 1's IC and GC. One training seed by default; C9 and C10 need more (--seeds 3).
"""

from harness.config import ablations, presets
from harness.config.parts import GeneratorAugmented, Independent

REPORT = {"against": "gc-0.5"}


def runs(scale, seeds):
    data = presets.scale(scale).table1[0]
    all_runs = []
    for seed in seeds:
        couplings = (GeneratorAugmented(mu=0.5), GeneratorAugmented(mu=0.5, predictor="online"), Independent())
        gc, online, ic = (presets.make(scale, data, coupling, seed) for coupling in couplings)
        all_runs += [gc, online, ablations.with_other_dropout(gc), ic, ablations.with_other_dropout(ic)]
    return all_runs

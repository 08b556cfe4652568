"""Table 3: ablations of iCT-GC: endpoints predicted without EMA, with dropout, stopped at iCT-IC's wall-clock; IC with and without dropout.

On the scale's main data set. The row "stopped at iCT-IC's wall-clock time" needs no run: it is GC's own curve, read where IC had ended.
Shares Table 1's IC and GC. One training seed unless asked for more (--seeds 3), which C9 and C10 need.
"""

from harness.config import ablations, presets
from harness.config.run import GeneratorAugmented, Independent

SEEDS = 1
REPORT = {"baseline": "gc-0.5"}


def runs(scale, seeds):
    data = presets.scale(scale).table1[0]
    found = []
    for seed in seeds:
        couplings = (GeneratorAugmented(mu=0.5), GeneratorAugmented(mu=0.5, predictor="online"), Independent())
        gc, online, ic = (presets.make(scale, data, coupling, seed) for coupling in couplings)
        found += [gc, online, ablations.with_other_dropout(gc), ic, ablations.with_other_dropout(ic)]
    return found

"""Figure 4: GC whose endpoint predictor is a frozen iCT-IC: a fully trained one, and a weak one with 20 % of the steps.

The paper does not say what the weak one is, so both readings are run: the checkpoint at 20 % of the schedule, and a complete run of so few
steps. The checkpoint comes from a run that is the beginning of Table 1's IC, bit for bit: it costs a fifth to a quarter of that, and works
whether or not Table 1 was run before and kept this checkpoint. All pairs are GC (mu = 1), as a frozen predictor does not suffer from it
[chosen]; --set coupling.mu=0.5 mixes. On the scale's main data set, one training seed unless asked for more (--seeds 3), which C7 needs.
"""

from harness.config import ablations, presets
from harness.config.run import GeneratorAugmented, Independent

SEEDS = 1
REPORT = {
    "notes": [
        "weak predictors: the iCT-IC with the smaller n1 is the beginning of the full one, bit for bit, and predicts as it was at 20 % of "
        "the schedule; the other one is a complete run of 20 % of the steps"
    ]
}


def runs(scale, seeds):
    data = presets.scale(scale).table1[0]
    found = []
    for seed in seeds:
        full = presets.make(scale, data, Independent(), seed)
        begun, short = ablations.first_part(full), ablations.complete_short(full)
        predictors = [(full, None), (begun, ablations.weak_step(full)), (short, None)]
        frozen = [GeneratorAugmented(mu=1, predictor="frozen", frozen=run.id, frozen_step=step) for run, step in predictors]
        found += [full, begun, short, *(presets.make(scale, data, coupling, seed) for coupling in frozen)]
    return found

"""How much GC: mu = 0 (which is IC), 0.1, ..., 0.9, 1, beside batch-OT; Figure 5, and values of mu that the paper does not show.

One training seed by default; C3 and C4 need more (--seeds 3). Shares Table 1's runs.
"""

from harness.config import presets
from harness.config.parts import BatchOT, GeneratorAugmented, Independent

MU = [round(0.1 * i, 1) for i in range(1, 11)]


def runs(scale, seeds):
    return presets.grid(scale, [Independent(), BatchOT(), *(GeneratorAugmented(mu=mu) for mu in MU)], seeds)

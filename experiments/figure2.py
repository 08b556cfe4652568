"""Figure 2: the proxy Rtil_t of IC, batch-OT at several sizes, and GC: one denoiser trained on the pairs of each.

GC's endpoints are predicted by Table 1's iCT-GC (mu = 0.5), trained and frozen; all pairs are GC (mu = 1), as in the definition of Rtil_GC.
On the scale's main data set; one training seed by default.
"""

from harness.config import presets
from harness.config.parts import BatchOT, GeneratorAugmented, Independent

SIZES = {"toy": (128, 512), "digits": (64, 512), "fashion": (256, 512, 2048), "paper": (128, 512, 2048)}
"""Rows of one assignment: the training batch and the paper's 512; larger ones where there is more data."""


def runs(scale, seeds):
    data = presets.scale(scale).table1[0]
    all_runs = []
    for seed in seeds:
        gc = presets.make(scale, data, GeneratorAugmented(mu=0.5), seed)
        sizes = [BatchOT(scope="global", size=size) for size in SIZES[scale]]
        frozen = GeneratorAugmented(mu=1, predictor="frozen", frozen=gc.id)
        all_runs += [gc, *(presets.denoiser(scale, data, coupling, seed) for coupling in (Independent(), *sizes, frozen))]
    return all_runs

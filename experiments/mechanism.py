"""Mechanism: why GC works. Variants of GC that change the predictor or the pairing of its endpoints, beside Table 1's GC, IC and batch-OT.

online: endpoints predicted by the weights in training instead of their average. fresh-noise: (endpoint, new noise). shuffled: endpoints
permuted among the GC rows. batch-ot: endpoints and noise assigned optimally. reflow: endpoints predicted from pure noise, f(80 z, 80).
On the scale's main data set; one training seed by default.
"""

from harness.config import presets
from harness.config.parts import BatchOT, GeneratorAugmented, Independent

VARIANTS = ("fresh-noise", "shuffled", "batch-ot", "reflow")
REPORT = {
    "against": "gc-0.5",
    "notes": [
        "online: endpoints predicted by the weights in training, not their average; fresh-noise: (endpoint, new noise); shuffled: endpoints"
        " permuted among the GC rows; batch-ot: endpoints and noise assigned optimally; reflow: endpoints predicted from pure noise"
    ],
}


def runs(scale, seeds):
    gc = [GeneratorAugmented(mu=0.5), GeneratorAugmented(mu=0.5, predictor="online")]
    gc += [GeneratorAugmented(mu=0.5, variant=variant) for variant in VARIANTS]
    data = presets.scale(scale).table1[:1]
    return presets.grid(scale, [Independent(), BatchOT(), *gc], seeds, data)

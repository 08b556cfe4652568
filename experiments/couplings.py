"""Couplings compared: IC, batch-OT exact and entropic, GC, ReFlow pairs of a trained model, and a learned coupling.

All are trained with the network, optimizer and schedule of Table 1, none with dropout but IC and batch-OT where the preset has it, and are
compared with IC. ReFlow (arXiv 2209.03003) trains on the pairs (G(z), z) of a finished IC model G, instead of on data. The learned coupling
is that of variational consistency training (arXiv 2502.18197), whose encoder is trained along.
"""

from harness.config import presets
from harness.config.parts import BatchOT, EntropicOT, GeneratorAugmented, Independent, Variational

REGULARISATIONS = (0.02, 0.1)
KL_WEIGHTS = (10.0, 100.0)
REPORT = {
    "notes": [
        "Entropic OT: weight of the entropy over the mean cost of the batch. VCT: weight of the KL divergence.",
        "The row with predictor frozen and variant reflow trains on the pairs of the finished iCT-IC run of the same seed.",
    ]
}


def runs(scale, seeds):
    data = presets.scale(scale).table1[:1]
    plain = [Independent(), BatchOT(), *(EntropicOT(regularisation=value) for value in REGULARISATIONS)]
    learned = [GeneratorAugmented(mu=0.5), GeneratorAugmented(mu=1), *(Variational(kl_weight=value) for value in KL_WEIGHTS)]
    all_runs = []
    for seed in seeds:
        own = presets.grid(scale, [*plain, *learned], [seed], data)
        reflow = GeneratorAugmented(mu=1, predictor="frozen", frozen=own[0].id, variant="reflow")
        all_runs += own + presets.grid(scale, [reflow], [seed], data)
    return all_runs

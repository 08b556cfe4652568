"""Table 1: one-step generation with iCT-IC, iCT-OT and iCT-GC (mu = 0.5) on every data set of the scale."""

from harness.config import presets


def runs(scale, seeds):
    return presets.grid(scale, presets.MAIN, seeds)

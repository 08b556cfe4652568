"""Figure 3: the quadratic transport cost c(t) of GC, with Table 1's models as endpoint predictors. Shares Table 1's runs."""

from harness.config import presets


def runs(scale, seeds):
    return presets.grid(scale, presets.MAIN, seeds)

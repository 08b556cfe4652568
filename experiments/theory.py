"""Theory: R(theta), Theorems 1 and 2, Lemma 1 and the closed forms, each beside its true value. Measures Table 1's IC and GC networks.

One training seed by default.
"""

from harness.config import presets
from harness.config.parts import GeneratorAugmented, Independent


def runs(scale, seeds):
    return presets.grid(scale, [Independent(), GeneratorAugmented(mu=0.5)], seeds)

"""Speed profiles: does the faster arithmetic change the results? Table 1's models in fp32, with --fast, and in bf16 without compilation.

On the scale's main data set. Each profile is compared with fp32 in every metric, paired by training seed: note below the table. A profile
that changes nothing at a scale, as --fast for points, has no rows of its own.
"""

from harness.config import presets
from harness.config.parts import BatchOT, GeneratorAugmented, Independent
from harness.config.run import varied
from harness.config.speed import BF16, FP32, fast_settings


def runs(scale, seeds):
    models = [Independent(), BatchOT(), GeneratorAugmented(mu=0.5)]
    unique = {}
    for run in presets.grid(scale, models, seeds, presets.scale(scale).table1[:1]):
        exact = varied(run, train=FP32)
        for profile in (FP32, fast_settings(exact.to_dict()), BF16):
            other = varied(exact, train=profile)
            unique.setdefault(other.id, other)
    return list(unique.values())

"""Speed profiles: does the faster arithmetic change the results? Table 1's models in fp32, with --fast, and in bf16 without compilation.

On the scale's main data set. Each profile is compared with fp32 in every metric, paired by training seed: note below the table. A profile
that changes nothing at a scale, as --fast for points, has no rows of its own.
"""

from harness.config import ablations, presets
from harness.config.parts import BatchOT, GeneratorAugmented, Independent


def runs(scale, seeds):
    models = [Independent(), BatchOT(), GeneratorAugmented(mu=0.5)]
    all_runs = presets.grid(scale, models, seeds, presets.scale(scale).table1[:1])
    return [profile for run in all_runs for profile in ablations.speed_profiles(run)]

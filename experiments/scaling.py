"""Scaling: does GC's advantage over IC hold with less data, another width of the network, fewer or more steps? Each is varied alone.

The first pair is Table 1's. Quality is always measured against the full data set. On the scale's main data set; one training seed by
default. The digits scale tries one other value each. Images of your own are reduced to the same parts as the scale's set: a quarter, and
beyond the digits scale a sixteenth.
"""

from harness.config import ablations, presets
from harness.config.run import varied

ROWS = {"toy": (256, 1024), "digits": (360,), "fashion": (3750, 15_000), "paper": (3125, 12_500)}
PARTS = (16, 4)
WIDTH = {"toy": (0.5, 2), "digits": (2,), "fashion": (0.5, 2), "paper": (0.5, 2)}
STEPS = {"toy": (0.5, 2), "digits": (0.5,), "fashion": (0.5, 2), "paper": (0.5, 2)}


def runs(scale, seeds):
    all_runs = []
    for run in ablations.ic_and_gc(scale, seeds):
        images = presets.images_of(scale, run.data.name)
        limits = ROWS[scale] if images is None else [max(1, images // part) for part in PARTS[-len(ROWS[scale]) :]]
        width = "width" if run.network.kind == "mlp" else "base_channels"
        all_runs.append(run)
        all_runs += [varied(run, data={"limit": rows}) for rows in limits]
        all_runs += [varied(run, network={width: round(factor * getattr(run.network, width))}) for factor in WIDTH[scale]]
        all_runs += [varied(run, train={"steps": round(factor * run.train.steps)}) for factor in STEPS[scale]]
    return all_runs
